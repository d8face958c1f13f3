"""The host's plan of passes, csrc/tensor_product_conv/passes.h, as Python functions."""

import ctypes
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"


class Planner:
    """Calls the plan as the library has it: `edges(...)` and `nodes(...)` of a pass."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "passes.so"
            command = ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{CSRC}", "-o", library]
            subprocess.run([*command, HERE / "passes.cpp"], check=True)
            self.library = ctypes.CDLL(str(library))

    def _call(self, name: str, *numbers: int) -> int:
        function = getattr(self.library, name)
        function.restype = ctypes.c_int64
        return function(*map(ctypes.c_int64, numbers))

    def edges(self, edges: int, bytes_of_an_edge: int, free_bytes: int) -> int:
        """Edges of a pass."""
        return self._call("edges_of_a_pass", edges, bytes_of_an_edge, free_bytes)

    def nodes(self, edges: int, bytes_of_an_edge: int, free_bytes: int, nodes: int) -> int:
        """Nodes for which a pass launches threads."""
        return self._call("nodes_of_a_pass", edges, bytes_of_an_edge, free_bytes, nodes)

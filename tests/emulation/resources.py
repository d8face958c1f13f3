"""What nvcc says of the CUDA kernels: `python tests/emulation/resources.py` prints docs/cuda.md's table.

Registers and spills are ptxas's; warps per multiprocessor follow from them, from the threads of a block and
from its shared memory at the sizes of W64 (64 channels of every irrep up to l = 2) or those named here.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).parents[2] / "csrc"
FLAGS = ["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Xptxas", "-v", f"-I{CSRC}", "-cubin"]
ARCHS = {"80": 164, "90": 228}  # KB of shared memory of a multiprocessor


class Kernel(NamedTuple):
    name: str  # without namespaces
    registers: int
    spilled: int  # bytes
    local: int  # bytes of local memory, spilled ones among them


def sources() -> list[Path]:
    """The files of csrc that have kernels, of ours or of cub."""
    kernel = re.compile("__global__|cub::")
    return [path for path in sorted(CSRC.glob("*/cuda*.cu")) if kernel.search(path.read_text())]


def short_names(mangled: list[str]) -> list[str]:
    """Kernels' names without namespaces and arguments."""
    command = ["c++filt", "--no-strip-underscore"]
    done = subprocess.run(command, input="\n".join(mangled), capture_output=True, text=True, check=True)
    short = [re.sub(r"\(anonymous namespace\)::|void ", "", line) for line in done.stdout.splitlines()]
    return [re.sub(r"\w+::", "", name.split("(")[0]) for name in short]


def compiled(source: Path, arch: str, cubin: Path) -> list[Kernel]:
    """The kernels of a file, and `cubin`. Raises RuntimeError with nvcc's output if it does not compile."""
    command = ["nvcc", *FLAGS, f"-arch=sm_{arch}", source, "-o", cubin]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    found = re.findall(
        r"Function properties for (\S+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores.*\n"
        r".*?Used (\d+) registers",
        done.stderr,
    )
    if len(found) != done.stderr.count("Function properties for"):
        raise RuntimeError(f"not understood:\n{done.stderr}")
    names = short_names([name for name, *_ in found])
    return [
        Kernel(name, int(registers), int(spilled), int(local))
        for name, (_, local, spilled, registers) in zip(names, found)
    ]


def nvdisasm() -> str | None:
    """The disassembler: of a CUDA toolkit in the path, or of PyPI's nvidia-cuda-nvdisasm."""
    folders = [Path(path) / "nvidia" for path in sys.path]
    packaged = [file for folder in folders for file in folder.glob("*/bin/nvdisasm")]
    return shutil.which("nvdisasm") or (str(packaged[0]) if packaged else None)


def instructions(disassembler: str, cubin: Path) -> dict[str, Counter[str]]:
    """How often each kernel of a cubin has each instruction, without its modifiers: "LDG", "FFMA", "LD"."""
    command = [disassembler, "--print-code", cubin]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    sections = re.split(r"^\.text\.(\w+):$", text, flags=re.MULTILINE)[1:]
    opcode = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", re.MULTILINE)
    names = short_names(sections[::2])
    found: dict[str, Counter[str]] = {}
    for name, code in zip(names, sections[1::2]):
        found.setdefault(name, Counter()).update(opcode.findall(code))
    return found


def family(name: str) -> tuple[int, int]:
    """Couplings of a convolution's kernel, and rows of output they have."""
    _, *codes = map(int, re.search(r"Family<([\d, ]+)>", name)[1].split(", "))
    return len(codes), sum(2 * (code % 10) + 1 for code in codes)


def staged(arrays: int):
    return lambda name: 4 * 4 * arrays * family(name)[0] * 256


def fields(cotangents: int):
    def size(name: str) -> int:
        numbers = 1 + 9 + 6 + (6 + 10 * cotangents if cotangents else 0)
        return 4 * numbers * 128 + family(name)[1] * 64 * 8 * 4

    return size


def mixture(gradient: bool):
    """32 features."""
    return lambda name: 2 * 4 * (4 + 32 + 10 * 128 * (2 if gradient else 1))


W64 = r"Family<(0, 0, 11|1, 1, 10|2, 2, 11)"
# What the table names, the kernels that belong to it, threads of a block, bytes of its shared memory.
ROWS = [
    ("`tensor_product_conv`", rf"forward_kernel<float.*{W64}", 128, staged(1)),
    ("`tensor_product_conv_backward`", rf"^backward_kernel<float.*{W64}", 128, staged(1)),
    ("`tensor_product_conv_double_backward`", rf"double_backward_kernel<float.*{W64}", 128, staged(2)),
    ("sums of rows of dx", r"rows_kernel<float", 256, lambda _: 0),
    ("`tabulated_conv`", rf"value_kernel<float.*{W64}", 128, fields(0)),
    ("`tabulated_conv_vjp`, one cotangent", rf"vjp_kernel<float.*{W64}", 128, fields(1)),
    ("`tabulated_conv_vjp`, four", rf"vjp_kernel<float.*{W64}", 128, fields(4)),
    ("`gmm_nll`, 32 features, value", r"tensor<4, false>", 128, mixture(False)),
    ("`gmm_nll`, 32 features, with gradient", r"tensor<4, true>", 128, mixture(True)),
    ("`gmm_nll`, 64 features, with gradient", r"tensor<8, true>", 128, lambda _: 2 * 4 * (68 + 36 * 256)),
    ("`gmm_nll`, float64, 32 features, with gradient", r"tiled<double, 1, true>", 128, lambda _: 96 << 10),
    ("`gmm_nll_hvp`", r"by_warp<float", 256, lambda _: 8 * 4 * (50 + 5 * 32)),
    ("`force_variance`, sums", r"collect<float>", 256, lambda _: 8 * 4 * 32 * 13),
    ("`force_variance_backward`", r"distribute<float>", 256, lambda _: 3 * 256 * 4),
    ("`edge_vectors`", r"vectors<double", 256, lambda _: 0),
    ("`edge_vectors_backward`", r"sum_to_atoms<double", 256, lambda _: 8 * 8 * 32 * 13),
]


def warps(registers: int, threads: int, shared: int, arch: str) -> int:
    """Of a multiprocessor at a time."""
    per_block = threads // 32
    by_registers = 65536 // ((registers * 32 + 255) // 256 * 256) // per_block
    by_memory = ARCHS[arch] * 1024 // (shared + 1024)
    return per_block * min(by_registers, by_memory, 2048 // threads, 32)


def span(values: list[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def main() -> None:
    kernels = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        jobs = {
            (source, arch): pool.submit(
                compiled, source, arch, Path(folder) / f"{source.parent.name}-{source.stem}-{arch}.cubin"
            )
            for source in sources()
            for arch in ARCHS
        }
        for (_, arch), job in jobs.items():
            kernels.setdefault(arch, []).extend(job.result())
    print("| kernel | registers, sm_80 | warps per SM | registers, sm_90 | warps per SM |")
    print("|---|---|---|---|---|")
    for title, pattern, threads, shared in ROWS:
        cells = []
        for arch in ARCHS:
            its = [kernel for kernel in kernels[arch] if re.search(pattern, kernel.name)]
            if not its:
                sys.exit(f"no kernel is called {pattern}")
            cells.append(span([kernel.registers for kernel in its]))
            cells.append(span([warps(k.registers, threads, shared(k.name), arch) for k in its]))
        print(f"| {title} | {' | '.join(cells)} |")
    for arch, found in kernels.items():
        spilled = [kernel for kernel in found if kernel.spilled]
        print(f"\nsm_{arch}: {len(found)} kernels, {len(spilled)} of them spill registers", *spilled)


if __name__ == "__main__":
    main()

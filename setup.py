"""Build `uqforce/libuqforce.so` (the ops, no Python symbol in it), `uqforce/_C` (pybind11 bindings) and,
where LAMMPS's headers are found, its plugin in `uqforce_lammps`.

CUDA sources (`csrc/*/cuda*.cu`) are compiled wherever nvcc is found, also against a CPU build of torch;
without nvcc one printed line says that they are skipped, and so for the plugin. Environment: `CUDA_HOME`,
`UQFORCE_CUDA=0` to leave CUDA out, `UQFORCE_CUDA_ARCHS` (default "80;90"), `MAX_JOBS`.
"""

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from torch.utils import cpp_extension

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"
# Never -march=native: kernels for AVX2 and AVX-512 are chosen at run time (csrc/common/isa.h).
CXX_FLAGS = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", "-fno-math-errno", "-fopenmp"]
NVCC_FLAGS = ["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-lineinfo", "-Xfatbin=-compress-all"]


class BuildExtension(cpp_extension.BuildExtension):
    """Names the library `libuqforce.so`; the Python module keeps the suffix of its Python version."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.editable_mode:  # pip would compile everything anew in a temporary folder
            self.build_temp = f"build/temp.{self.plat_name}-{sys.implementation.cache_tag}"

    def run(self) -> None:
        super().run()
        plugin = plugin_builder()
        root = ROOT if self.inplace or self.editable_mode else Path(self.build_lib)
        folder, library = root / "uqforce_lammps", root / "uqforce" / "libuqforce.so"
        if plugin.is_current(folder / plugin.PLUGIN):
            return
        try:
            plugin.find_lammps()
        except plugin.BuildError as missing:
            print(
                f"uqforce: the LAMMPS plugin is skipped ({missing}); `uqforce build-lammps` builds it later"
            )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            plugin.build(folder, library, version)

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("libuqforce"):
            return f"{fullname.replace('.', '/')}.so"
        return super().get_ext_filename(fullname)


class BuildPython(build_py):
    """Adds what `uqforce build-lammps` compiles."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for pattern in plugin_builder().SHIPPED:
            for path in CSRC.glob(pattern):
                copy = Path(self.build_lib) / "uqforce_lammps" / path.relative_to(ROOT)
                self.mkpath(str(copy.parent))
                self.copy_file(str(path), str(copy))


def plugin_builder():
    """`uqforce_lammps/build.py`, without importing anything that is being built."""
    spec = importlib.util.spec_from_file_location("build_plugin", ROOT / "uqforce_lammps" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_cuda_home() -> Path | None:
    """Directory of the CUDA toolkit: `CUDA_HOME`, that of nvcc, or /usr/local/cuda; None where there is none.

    `cpp_extension.CUDA_HOME` is always None with a CPU torch. The nvcc in the path may be a wrapper outside
    the toolkit, so the headers are looked for too.
    """
    if os.environ.get("UQFORCE_CUDA") == "0":
        return None
    if "CUDA_HOME" in os.environ:
        homes = [Path(os.environ["CUDA_HOME"])]
    else:
        nvcc = Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc").resolve()
        homes = [nvcc.parents[1], Path("/usr/local/cuda")]
    return next((home for home in homes if (home / "include/cuda_runtime.h").exists()), None)


def sources(pattern: str) -> list[str]:
    """Sources of the library that match; `csrc/lammps` and `csrc/bindings.cpp` are not part of it."""
    paths = sorted(path.relative_to(ROOT) for path in CSRC.glob(pattern))
    return [str(path) for path in paths if path.parent.name != "lammps"]


version = re.search(r'"(.+)"', (ROOT / "uqforce/_version.py").read_text())[1]
cuda_home, cuda_sources = find_cuda_home(), sources("*/cuda*.cu")
macros = [("UQFORCE_VERSION", f'"{version}"')]
compile_args, libraries, library_dirs = {"cxx": CXX_FLAGS}, [], []
if cuda_home and cuda_sources:
    archs = os.environ.get("UQFORCE_CUDA_ARCHS", "80;90").split(";")
    gencode = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    compile_args["nvcc"] = [*NVCC_FLAGS, *gencode]
    macros.append(("UQFORCE_CUDA_ARCHS", f'"{",".join(archs)}"'))
    libraries, library_dirs = ["cudart_static", "rt", "dl"], [f"{cuda_home}/lib64", f"{cuda_home}/lib"]
    cpp_extension.CUDA_HOME = str(cuda_home)
    print(f"uqforce: CUDA kernels for sm_{', sm_'.join(archs)} are compiled with {cuda_home}")
elif cuda_sources:
    cuda_sources = []
    print("uqforce: nvcc not found or UQFORCE_CUDA=0, the CUDA kernels are skipped")

setup(
    ext_modules=[
        cpp_extension.CppExtension(
            "uqforce.libuqforce",
            ["csrc/library.cpp", *sources("*/*.cpp"), *cuda_sources],
            include_dirs=[str(CSRC)],
            define_macros=macros,
            extra_compile_args=compile_args,
            extra_link_args=["-fopenmp"],
            libraries=libraries,
            library_dirs=library_dirs,
            py_limited_api=True,  # leaves libtorch_python out
        ),
        cpp_extension.CppExtension(
            "uqforce._C", ["csrc/bindings.cpp"], extra_compile_args={"cxx": CXX_FLAGS}
        ),
    ],
    cmdclass={"build_ext": BuildExtension, "build_py": BuildPython},
)

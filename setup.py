"""Build `uqforce/libuqforce.so` (the ops, no Python symbol in it) and `uqforce/_C` (pybind11 bindings).

CUDA sources (`csrc/*/cuda.cu`) are compiled wherever nvcc is found, also against a CPU build of torch;
without nvcc one printed line says that they are skipped. Environment: `CUDA_HOME`, `UQFORCE_CUDA=0` to
leave CUDA out, `UQFORCE_CUDA_ARCHS` (default "80;90"), `MAX_JOBS`.
"""

import os
import shutil
from pathlib import Path

import torch
from pybind11 import get_include as pybind11_include
from setuptools import Extension, setup
from torch.utils import cpp_extension

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"
CXX_FLAGS = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", "-fno-math-errno", "-fopenmp"]


def find_cuda_home() -> str | None:
    """Directory of the CUDA toolkit, or None. `cpp_extension.CUDA_HOME` is always None with a CPU torch."""
    if os.environ.get("UQFORCE_CUDA") == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    nvcc = Path(home) / "bin" / "nvcc" if home else shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    nvcc = Path(nvcc).resolve()
    return str(nvcc.parents[1]) if nvcc.exists() else None


def relative(paths) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in paths)


cuda_home = find_cuda_home()
cuda_sources = relative(CSRC.glob("*/cuda*.cu"))
macros = [("UQFORCE_TORCH_VERSION", f'"{torch.__version__.split("+")[0]}"')]
compile_args = {"cxx": CXX_FLAGS}
libraries, library_dirs = [], []
if cuda_home and cuda_sources:
    cpp_extension.CUDA_HOME = cuda_home
    archs = os.environ.get("UQFORCE_CUDA_ARCHS", "80;90").split(";")
    gencode = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    compile_args["nvcc"] = ["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-lineinfo", *gencode]
    macros.append(("UQFORCE_WITH_CUDA", None))
    libraries, library_dirs = ["cudart_static", "rt", "dl"], [f"{cuda_home}/lib64"]
    print(f"uqforce: CUDA kernels built with {cuda_home} for sm_{', sm_'.join(archs)}")
elif cuda_sources:
    cuda_sources = []
    print("uqforce: nvcc not found (or UQFORCE_CUDA=0), CUDA kernels are skipped")

ops = cpp_extension.CppExtension(
    "uqforce.libuqforce",
    [*relative(CSRC.glob("library.cpp")), *relative(CSRC.glob("common/*.cpp")),
     *relative(p for p in CSRC.glob("*/*.cpp") if p.parent.name not in ("common", "lammps")), *cuda_sources],
    include_dirs=[str(CSRC)],
    define_macros=macros,
    extra_compile_args=compile_args,
    extra_link_args=["-fopenmp"],
    libraries=libraries,
    library_dirs=library_dirs,
    py_limited_api=True,
)
bindings = Extension(
    "uqforce._C",
    ["csrc/bindings.cpp"],
    include_dirs=[pybind11_include(), str(CSRC)],
    define_macros=macros,
    extra_compile_args={"cxx": CXX_FLAGS},
    language="c++",
)
setup(
    ext_modules=[ops, bindings],
    cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(no_python_abi_suffix=True)},
)

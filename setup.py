"""Build `uqforce/libuqforce.so` (the ops, no Python symbol in it), `uqforce/_C` (pybind11 bindings) and,
where LAMMPS's headers are found, its plugin in `uqforce_lammps`.

CUDA sources (`csrc/*/cuda*.cu`) are compiled beside a CUDA build of torch where nvcc is found; beside a CPU
build, whose programs have no use for them, only with `UQFORCE_CUDA=1`. A printed line says what becomes of
them, and so for the plugin. Environment: `CUDA_HOME`, `UQFORCE_CUDA` (0 or 1), `UQFORCE_CUDA_ARCHS`,
`MAX_JOBS`; see docs/building.md.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from setuptools import setup
from setuptools.command.build_py import build_py
from torch.utils import cpp_extension

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"
# Never -march=native: kernels for AVX2 and AVX-512 are chosen at run time (csrc/common/isa.h).
CXX_FLAGS = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", "-fno-math-errno", "-fopenmp"]
NVCC_FLAGS = ["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-lineinfo", "-Xfatbin=-compress-all"]
RELEASE_ARCHS = ["80", "90", "100", "120"]  # A100, H100 and H200, B200, RTX 50; as in CMakeLists.txt


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
    if "CUDA_HOME" in os.environ:
        homes = [Path(os.environ["CUDA_HOME"])]
    else:
        nvcc = Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc").resolve()
        homes = [nvcc.parents[1], Path("/usr/local/cuda")]
    return next((home for home in homes if (home / "include/cuda_runtime.h").exists()), None)


def cuda_toolkit() -> Path | None:
    """The toolkit to compile CUDA kernels with; None, after a printed line, where they are left out."""
    wanted, home = os.environ.get("UQFORCE_CUDA", "auto"), find_cuda_home()
    if wanted not in ("auto", "0", "1"):
        sys.exit(f"UQFORCE_CUDA={wanted}: use 1 to compile the CUDA kernels, 0 to leave them out")
    if wanted == "1" and home is None:
        sys.exit("UQFORCE_CUDA=1, but no CUDA toolkit is found: put nvcc into the path, or set CUDA_HOME")
    if wanted == "0":
        print("uqforce: UQFORCE_CUDA=0, the CUDA kernels are left out")
    elif wanted == "auto" and torch.version.cuda is None:
        print(f"uqforce: torch {torch.__version__} has no CUDA, the kernels are left out (UQFORCE_CUDA=1)")
    elif home is None:
        print("uqforce: nvcc is not found, the CUDA kernels are left out (docs/building.md)")
    else:
        return home
    return None


def cuda_archs(home: Path) -> list[str]:
    """What nvcc compiles for: the cards that are seen, or all of RELEASE_ARCHS that it knows; and PTX.

    Returns nvcc's names: ["sm_80", "sm_90", "compute_90"], the last one being the PTX of the newest.
    """
    listed = subprocess.run(
        [home / "bin" / "nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True
    )
    known = re.findall(r"compute_(\d+)", listed.stdout)
    cards = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    seen = ["{}{}".format(*torch.cuda.get_device_capability(card)) for card in cards]
    if "UQFORCE_CUDA_ARCHS" in os.environ:
        wanted = re.split("[;, ]+", os.environ["UQFORCE_CUDA_ARCHS"].strip())
    elif seen and set(seen) <= set(known):
        wanted = seen
    else:
        wanted = [arch for arch in RELEASE_ARCHS if arch in known]
    unknown = [arch for arch in wanted if arch not in known]
    if unknown:
        sys.exit(f"UQFORCE_CUDA_ARCHS names {' '.join(unknown)}: {home}/bin/nvcc knows {' '.join(known)}")
    numbers = sorted({int(arch) for arch in wanted})
    return [*(f"sm_{number}" for number in numbers), f"compute_{numbers[-1]}"]


def sources(pattern: str) -> list[str]:
    """Sources of the library that match; `csrc/lammps` and `csrc/bindings.cpp` are not part of it."""
    paths = sorted(path.relative_to(ROOT) for path in CSRC.glob(pattern))
    return [str(path) for path in paths if path.parent.name != "lammps"]


version = re.search(r'"(.+)"', (ROOT / "uqforce/_version.py").read_text())[1]
macros = [("UQFORCE_VERSION", f'"{version}"')]
cuda_home, cuda_sources = cuda_toolkit(), []
compile_args, libraries, library_dirs = {"cxx": CXX_FLAGS}, [], []
if cuda_home:
    archs, cuda_sources = cuda_archs(cuda_home), sources("*/cuda*.cu")
    gencode = [f"-gencode=arch=compute_{arch.split('_')[1]},code={arch}" for arch in archs]
    # To nvcc alone: other architectures leave the C++ files as they are.
    compile_args["nvcc"] = [*NVCC_FLAGS, *gencode, f'-DUQFORCE_CUDA_ARCHS="{" ".join(archs)}"']
    macros.append(("UQFORCE_CUDA", None))
    library_dirs = [f"{cuda_home}/lib64", f"{cuda_home}/lib"]
    static = any(Path(folder, "libcudart_static.a").exists() for folder in library_dirs)
    libraries = ["cudart_static", "rt", "dl"] if static else ["cudart"]
    cpp_extension.CUDA_HOME = str(cuda_home)
    print(f"uqforce: CUDA kernels for {' '.join(archs)} are compiled with {cuda_home}")

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

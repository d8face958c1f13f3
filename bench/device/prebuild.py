"""Builds here what a machine with a GPU needs, without a GPU: `make device-library`.

    python bench/device/prebuild.py [--torch 2.11.0] [--archs 90] [--wheels ase vesin ...]

into `.device/`: the library and the bindings for the Python that runs this and that torch, and wheels of the
packages that such a machine lacks. torch's own wheel for CUDA is installed without the two gigabytes of
libraries that it wants: stubs stand in their place, enough to import it, compile against it and link.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
CARRIED, WORK = ROOT / ".device", ROOT / "build" / "device-library"
# What `import torch` and a build need of Python, and what machines with torch often lack of ours.
TORCH_NEEDS = (
    "filelock",
    "typing_extensions",
    "sympy",
    "networkx",
    "jinja2",
    "fsspec",
    "mpmath",
    "markupsafe",
)
BUILD_NEEDS = ("numpy", "setuptools>=77,<82", "ninja")
WHEELS = (  # pydantic wants just this core, and typing_extensions from 4.16 on
    "ase==3.29.0", "pydantic==2.14.4", "pydantic_core==2.50.5", "annotated_types==0.8.0",
    "typing_inspection==0.4.5", "typing_extensions==4.16.0", "vesin==0.6.2", "vesin_torch==0.6.2",
)  # fmt: skip
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def environment(torch: str) -> tuple[Path, Path]:
    """The Python of an environment with that torch, and torch's folder of libraries."""
    folder = WORK / f"torch-{torch}"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, f"torch=={torch}", *TORCH_NEEDS, *BUILD_NEEDS], check=True)
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    return python, Path(site) / "torch" / "lib"


def needed(library: Path) -> tuple[set[str], dict[str, str]]:
    """The libraries that it names, and for each version of symbols the library that has it."""
    names = set(re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "-dW", library)))
    versions, file = {}, ""
    for line in output("readelf", "-VW", library).splitlines():
        if found := re.search(r"File: (\S+)", line):
            file = found[1]
        elif found := re.search(r"Name: (\S+)\s+Flags: .*Version: \d+", line):
            versions[found[1]] = file
    return names, versions


def stub_libraries(libraries: Path, present: list[Path], folder: Path) -> None:
    """For every library that torch names and nobody has: one with functions of the names that are missed."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {library: needed(library) for library in sorted(libraries.glob("*.so*"))}
    places = [*present, folder]
    wanted = set().union(*(names for names, _ in named.values()))
    missing = {name for name in wanted if not any((place / name).exists() for place in places)}
    if not missing:
        return
    symbols, loose = defaultdict(lambda: defaultdict(set)), set()
    for library, (_, versions) in named.items():
        for line in output("nm", "-D", "--undefined-only", library).splitlines():
            name, _, version = line.split()[-1].partition("@")
            if version in versions:
                symbols[versions[version]][version].add(name)
            elif not version and not name.startswith("_"):
                loose.add(name)
    for library in [file for place in present for file in place.glob("*.so*") if file.is_file()]:
        # Linker scripts are among them, of which nm knows nothing.
        done = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True)
        loose -= {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}
    for name in sorted(missing):
        versions = symbols[name]
        source, script = folder / f"{name}.c", folder / f"{name}.map"
        functions = set().union(*versions.values()) if versions else loose
        source.write_text("".join(f"int {one}(void) {{ return 999; }}\n" for one in sorted(functions)))
        nodes = [f"{node} {{ {'; '.join(sorted(its))}; }};\n" for node, its in versions.items()]
        script.write_text("".join(nodes))
        options = [f"-Wl,--version-script={script}"] if nodes else []
        command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{name}", *options]
        subprocess.run([*command, "-o", folder / name, source], check=True)
        print(f"stub of {name}: {len(functions)} functions", flush=True)


def build(python: Path, search: list[Path], archs: str) -> list[Path]:
    """The library and the bindings, compiled in a copy of the sources."""
    source = WORK / "source"
    for name in ("csrc", "uqforce", "uqforce_lammps"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"),
                        dirs_exist_ok=True)  # fmt: skip
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, source)
    variables = {"UQFORCE_CUDA": "1", "UQFORCE_CUDA_ARCHS": archs}
    variables["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, search))
    variables["PATH"] = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    command = [python, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(command, cwd=source, env={**os.environ, **variables}, check=True)
    check = "import uqforce; print(uqforce.build_info()); import uqforce._C"
    subprocess.run([python, "-c", check], cwd=source, env={**os.environ, **variables}, check=True)
    return [source / "uqforce" / "libuqforce.so", *(source / "uqforce").glob("_C.*.so")]


def fetch_wheels(names: list[str]) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    options = ["--no-deps", "--only-binary=:all:", "--python-version", version, "--implementation", "cp"]
    options += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", CARRIED]
    subprocess.run([*command, *names], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", default="2.11.0", metavar="VERSION")
    parser.add_argument("--archs", default="90", help="as UQFORCE_CUDA_ARCHS")
    parser.add_argument("--wheels", nargs="*", default=list(WHEELS), metavar="PACKAGE")
    args = parser.parse_args()
    CARRIED.mkdir(exist_ok=True)
    fetch_wheels(args.wheels)
    python, libraries = environment(args.torch)
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    stubs, cuda = WORK / "stubs", [home / "lib64", home / "extras" / "CUPTI" / "lib64"]
    system = [
        Path("/lib/x86_64-linux-gnu"),
        Path("/usr/lib/x86_64-linux-gnu"),
        Path("/lib64"),
        Path("/usr/lib64"),
    ]
    stub_libraries(libraries, [libraries, *cuda, *system], stubs)
    for file in build(python, [stubs, *cuda], args.archs):
        shutil.copy2(file, CARRIED)
    for path in sorted(CARRIED.iterdir()):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

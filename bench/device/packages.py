"""Installs the wheels of `.device/` into build/site and says which packages are missing.

For machines that can fetch nothing: `make device-library` gathers the wheels. One that does not install is
named, and the others are tried. In a rehearsal, on a machine that is not theirs, they stay where they are.
"""

import importlib
import subprocess
import sys
from pathlib import Path

from card import REHEARSAL

ROOT = Path(__file__).parents[2]
CARRIED, SITE = ROOT / ".device", ROOT / "build" / "site"
NEEDED = (
    "numpy", "scipy", "torch", "e3nn", "ase", "pydantic", "click", "yaml", "safetensors", "sklearn", "pytest",
    "vesin",
)  # fmt: skip


def main() -> int:
    failed, wheels = [], [] if REHEARSAL else sorted(CARRIED.glob("*.whl"))
    for wheel in wheels:
        options = ["--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(SITE)]
        command = [sys.executable, "-m", "pip", "install", "--quiet", *options, str(wheel)]
        if subprocess.run(command).returncode:
            failed.append(wheel.name)
    sys.path.insert(0, str(SITE))
    importlib.invalidate_caches()
    missing = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            missing.append(name)
    if failed or missing:
        installed, packages = (", ".join(names) or "none" for names in (failed, missing))
        print(f"not installed: {installed}; missing packages: {packages}")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())

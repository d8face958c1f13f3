"""uqforce: uncertainty-aware E(3)-equivariant interatomic potentials."""

from uqforce._library import build_info
from uqforce._version import __version__

__all__ = ["Calculator", "__version__", "build_info", "import_nequip"]


def __getattr__(name: str):
    if name == "Calculator":  # not above: it imports ASE and the model
        from uqforce.engines.calculator import Calculator

        return Calculator
    if name == "import_nequip":
        from uqforce.exporting.nequip import import_nequip

        return import_nequip
    raise AttributeError(f"module 'uqforce' has no attribute {name!r}")

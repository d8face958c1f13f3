"""uqforce: uncertainty-aware E(3)-equivariant interatomic potentials."""

from uqforce._library import build_info
from uqforce._version import __version__

__all__ = ["__version__", "build_info"]

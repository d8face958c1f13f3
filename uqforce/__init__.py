"""uqforce: uncertainty-aware E(3)-equivariant interatomic potentials."""

from uqforce import _library  # noqa: F401  (loads the compiled ops)
from uqforce._version import __version__

__all__ = ["__version__"]

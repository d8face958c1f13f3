"""uqforce: interatomic potentials that say how far they can be trusted.

Everything a user needs is here, and imported when it is first used: `import uqforce` itself is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from uqforce import errors
from uqforce._version import __version__
from uqforce.errors import *

if TYPE_CHECKING:  # the same names once more, for editors and type checkers (tests/test_face.py compares)
    from uqforce._library import build_info as build_info
    from uqforce.data import Frame as Frame
    from uqforce.data import Keys as Keys
    from uqforce.data import Units as Units
    from uqforce.data import read_frames as read_frames
    from uqforce.engines.calculator import Calculator as Calculator
    from uqforce.engines.evaluate import evaluate as evaluate
    from uqforce.engines.md import md as md
    from uqforce.exporting.formats import export as export
    from uqforce.exporting.nequip import import_model as import_model
    from uqforce.model import Ensemble as Ensemble
    from uqforce.model import ModelConfig as ModelConfig
    from uqforce.model import Potential as Potential
    from uqforce.model import load_model as load_model
    from uqforce.model import save_model as save_model
    from uqforce.training import TrainConfig as TrainConfig
    from uqforce.training import train as train
    from uqforce.uncertainty.calibration_fit import calibrate as calibrate
    from uqforce.uncertainty.fit import fit as fit

# Each public name beside the errors, and the module that defines it. None of them is the name of a room:
# Python would put the room's module in its place as soon as that is imported.
_PUBLIC: dict[str, str] = {
    "Calculator": "uqforce.engines.calculator",
    "Ensemble": "uqforce.model",
    "Frame": "uqforce.data",
    "Keys": "uqforce.data",
    "ModelConfig": "uqforce.model",
    "Potential": "uqforce.model",
    "TrainConfig": "uqforce.training",
    "Units": "uqforce.data",
    "build_info": "uqforce._library",
    "calibrate": "uqforce.uncertainty.calibration_fit",
    "evaluate": "uqforce.engines.evaluate",
    "export": "uqforce.exporting.formats",
    "fit": "uqforce.uncertainty.fit",
    "import_model": "uqforce.exporting.nequip",
    "load_model": "uqforce.model",
    "md": "uqforce.engines.md",
    "read_frames": "uqforce.data",
    "save_model": "uqforce.model",
    "train": "uqforce.training",
}

__all__ = [
    "__version__",
    *_PUBLIC,
    *(name for name, value in vars(errors).items() if isinstance(value, type)),
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'uqforce' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

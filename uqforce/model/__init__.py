"""NequIP's architecture, its uncertainty heads and its files."""

from uqforce.model.config import PRESETS, ModelConfig
from uqforce.model.file import ModelFileError, load_model, save_model
from uqforce.model.network import Network
from uqforce.model.potential import Mixture, Potential, Prediction

__all__ = [
    "PRESETS",
    "Mixture",
    "ModelConfig",
    "ModelFileError",
    "Network",
    "Potential",
    "Prediction",
    "load_model",
    "save_model",
]

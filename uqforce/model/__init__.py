"""NequIP's architecture, its uncertainty heads and its files."""

from uqforce.model.config import PRESETS, ModelConfig
from uqforce.model.file import ModelFileError, load_model, save_model
from uqforce.model.inference import InferencePotential
from uqforce.model.network import Network
from uqforce.model.potential import Mixture, Potential, Prediction
from uqforce.model.sample import sample_structure

__all__ = [
    "PRESETS",
    "InferencePotential",
    "Mixture",
    "ModelConfig",
    "ModelFileError",
    "Network",
    "Potential",
    "Prediction",
    "load_model",
    "sample_structure",
    "save_model",
]

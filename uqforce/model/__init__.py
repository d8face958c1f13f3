"""NequIP's architecture, its uncertainty heads and its files."""

from uqforce.model.config import NOISE, PRESETS, ModelConfig
from uqforce.model.dropout import dropout_heads
from uqforce.model.ensemble import Ensemble, InferenceEnsemble, first_member, inference_form
from uqforce.model.file import load_model, save_model
from uqforce.model.inference import InferencePotential
from uqforce.model.mixture import Mixture
from uqforce.model.network import Network
from uqforce.model.potential import Potential
from uqforce.model.prediction import Prediction
from uqforce.model.sample import sample_structure

__all__ = [
    "NOISE",
    "PRESETS",
    "Ensemble",
    "InferenceEnsemble",
    "InferencePotential",
    "Mixture",
    "ModelConfig",
    "Network",
    "Potential",
    "Prediction",
    "dropout_heads",
    "first_member",
    "inference_form",
    "load_model",
    "sample_structure",
    "save_model",
]

"""NequIP's architecture, its uncertainty heads and its files."""

from uqforce.model.config import NOISE, PRESETS, ModelConfig
from uqforce.model.dropout import dropout_heads
from uqforce.model.ensemble import Ensemble, InferenceEnsemble, first_member, inference_form
from uqforce.model.file import load_model, save_model
from uqforce.model.graph import Graph
from uqforce.model.inference import InferencePotential
from uqforce.model.mixture import Mixture
from uqforce.model.network import Network
from uqforce.model.potential import Potential
from uqforce.model.quantities import QUANTITIES, Prediction, Quantity, named
from uqforce.model.sample import sample_structure

__all__ = [
    "NOISE",
    "PRESETS",
    "QUANTITIES",
    "Ensemble",
    "Graph",
    "InferenceEnsemble",
    "InferencePotential",
    "Mixture",
    "ModelConfig",
    "Network",
    "Potential",
    "Prediction",
    "Quantity",
    "dropout_heads",
    "first_member",
    "inference_form",
    "load_model",
    "named",
    "sample_structure",
    "save_model",
]

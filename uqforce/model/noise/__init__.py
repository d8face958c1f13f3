"""Noise of the data: what a model says of the errors of its labels. One module per form, one interface.

    total       one process of all coordinates, coherent between energy and forces; structures of like size
    local       every atom its own process, its standard deviation a function of its own edges; any size
    local-deep  every atom its own process, its standard deviation of the last features; blocks by probes
    white       energies and forces apart

Each is a `Noise` (terms.py), which says what a form has to give. A new form is one module and one line of
`uqforce.model.noise_forms.NOISE_FORMS`.

Source: Jorgensen, Busk, Winther, Schmidt, arXiv:2312.04174 (coherent); Rensmeyer, Craig, Kramer, Niggemann,
arXiv:2304.03694 (white).
"""

from importlib import import_module

from uqforce.model.config import ModelConfig
from uqforce.model.noise.terms import Noise
from uqforce.model.noise_forms import NOISE_FORMS


def make_noise(config: ModelConfig, num_features: int, members: int = 1) -> Noise:
    """The noise that the configuration asks for, on `num_features` last features."""
    module, name = NOISE_FORMS[config.noise].place.split(":")
    return getattr(import_module(module), name)(config, num_features, members)

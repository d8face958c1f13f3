"""Noise of the data: what a model says of the errors of its labels. One module per form, one interface.

    total       one process of all coordinates, coherent between energy and forces; structures of like size
    local       every atom its own process, its standard deviation a function of its own edges; any size
    local-deep  every atom its own process, its standard deviation of the last features; blocks by probes
    white       energies and forces apart

Each has, with M members (energy heads) throughout,

    forward(features, edges, edge_index, atom_types, batch, num_structures) -> NoiseTerms
        what is differentiated by autograd: the gradients of `roots` by the edges are what `split` takes;
    explicit(features, edge_vec, edge_index, atom_types, batch, num_structures, many_ranks, numbers)
        -> (NoiseTerms, cotangents [K,n,D] of the features, slopes [K',E,3] by the edges beside these)
        the same without autograd: the cotangents' gradients by the edges and these slopes go to `split`;
    split(gradients, terms, edge_index, batch) -> (slopes, halves) of `Evaluation`;
    own_trace(slopes, edge_index, atom_types, num_owned, numbers) -> [n]
        traces of the slopes' blocks of a process's own atoms, of all processes' edges.

`explicit` and `own_trace` are methods of what `inference(cutoffs)` of the float64 form gives.

Source: Jorgensen, Busk, Winther, Schmidt, arXiv:2312.04174 (coherent); Rensmeyer, Craig, Kramer, Niggemann,
arXiv:2304.03694 (white).
"""

from torch import nn

from uqforce.model.config import ModelConfig
from uqforce.model.noise.deep import DeepNoise
from uqforce.model.noise.local import LocalNoise
from uqforce.model.noise.terms import NoNoise
from uqforce.model.noise.total import TotalNoise
from uqforce.model.noise.white import WhiteNoise

FORMS: dict[str, type[nn.Module]] = {
    "none": NoNoise,
    "total": TotalNoise,
    "local": LocalNoise,
    "local-deep": DeepNoise,
    "white": WhiteNoise,
}


def make_noise(config: ModelConfig, num_features: int, members: int = 1) -> nn.Module:
    """The noise that the configuration asks for, on `num_features` last features."""
    return FORMS[config.noise](config, num_features, members)


__all__ = ["FORMS", "DeepNoise", "LocalNoise", "NoNoise", "TotalNoise", "WhiteNoise", "make_noise"]

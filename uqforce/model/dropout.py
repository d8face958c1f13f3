"""Dropout of the last features, and the heads that stand for a number of its masks."""

import torch
from torch import Tensor

from uqforce.errors import ModelError
from uqforce.model.noise.terms import Head
from uqforce.model.potential import Potential


def dropout_masks(samples: int, num_features: int, dropout: float, seed: int) -> Tensor:
    """Masks [K,D]: 0 with probability `dropout`, else 1 / (1 - dropout)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.full([samples, num_features], 1.0 - dropout).bernoulli(generator=generator) / (1.0 - dropout)


def dropout_heads(potential: Potential, samples: int, seed: int = 0) -> Potential:
    """A model trained with dropout as one of `samples` heads, each with a mask of its own folded into it.

    Monte Carlo dropout (Gal, Ghahramani, arXiv:1506.02142) without chance at evaluation: the masks are those
    of `dropout_masks`, one for all atoms, as in training one for all atoms of a structure. So a sample is
    one smooth, size-consistent potential, and all share one pass through the network. Mixture and rigidity,
    which are of the features, are those of the model; a calibration, which is of its uncertainties, is not
    carried over.

    Raises:
        ModelError: the model has no dropout, or fewer than two samples are asked for.
    """
    config, dropout = potential.config, potential.config.dropout
    if dropout == 0.0 or samples < 2:
        raise ModelError(
            f"{samples} samples of a model with dropout {dropout}: take two or more, of one with dropout"
        )
    d = potential.network.num_last_features
    heads = Potential(config.model_copy(update={"heads": samples, "dropout": 0.0}), potential.architecture)
    heads.take_mixture(potential.mixture)
    if potential.rigidity.factor is not None:
        heads.rigidity.store(potential.rigidity.factor)
    # what is one member's, of size 1 along the axis of members, is repeated
    own = heads.state_dict()
    given = potential.state_dict()
    heads.load_state_dict({name: given[name].expand_as(value) for name, value in own.items()})
    kept = dropout_masks(samples, d, dropout, seed).to(heads.network.dtype)
    with torch.no_grad():
        heads.network.last_layer().mul_(kept.t())
        for head in heads.noise.modules():
            if isinstance(head, Head):
                first = head.inner[0] if len(head.inner) else head.last
                first.weight[:, -d:].mul_(kept.unsqueeze(2))
    heads.card = {**potential.card, "ensemble": {"kind": "dropout", "members": samples, "dropout": dropout}}
    return heads.train(potential.training)

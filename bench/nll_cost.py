"""What the score `nll` adds to energy and forces: potentials without and with a mixture, float32.

216 silicon atoms, cutoff 5 A, a mixture of 50 components on D features: NequIP's sizes S and M with D
channels of l = 0. `ratio` - 1 is the cost. It depends on how many components are near an atom: "apart", one
or two, as in models trained on molecules (1.02 of 20 on 3BPA at 600 K); "together", all of them.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from systems import silicon, tensors
from timing import Case

from uqforce.exporting.opening import call, open_model
from uqforce.model import ModelConfig, Potential
from uqforce.model.config import PRESETS
from uqforce.ops import neighbor_list

CUTOFF, COMPONENTS, REPEAT = 5.0, 50, 3
SPREADS = {"apart": 4.0, "together": 0.0}  # of the components' means, in standard deviations of features


def evaluation(size: str, features: int, spread: float | None) -> Callable[[], dict]:
    """A potential without (None) or with a mixture."""
    torch.manual_seed(0)
    channels = [features, *PRESETS[size]["num_features"][1:]]
    fields = {"type_names": ["Si"], "r_max": CUTOFF, "avg_num_neighbors": 28.0, "num_features": channels}
    potential = Potential(ModelConfig.from_preset(size, **fields))
    edge_index, _, edge_vec = neighbor_list(*tensors(silicon(REPEAT)), CUTOFF)
    zeros = torch.zeros(8 * REPEAT**3, dtype=torch.int64)
    if spread is not None:
        found = potential.eval()(edge_vec, edge_index, zeros, zeros, 1).features.detach()
        width = found.std(0).clamp(min=1e-6)
        # Every atom's features are near one component: the first one stands among them.
        means = found.mean(0) + spread * width * torch.randn(COMPONENTS, features)
        means[0] = found.mean(0)
        potential.set_mixture(means, (1 / width).diag().repeat(COMPONENTS, 1, 1), torch.zeros(COMPONENTS))
    module, _ = open_model(potential)
    return lambda: call(module, edge_vec, edge_index, zeros, zeros, 1)


def check(without: dict, with_nll: dict) -> None:
    torch.testing.assert_close(with_nll["forces"], without["forces"], rtol=0, atol=0)
    assert with_nll["nll"].shape == without["energies"].shape


def cases() -> Iterator[Case]:
    atoms = 8 * REPEAT**3
    for size in ("S", "M"):
        for features in (16, 32, 128):
            rivals = {"uqforce, energy and forces": partial(evaluation, size, features, None)}
            for name, spread in SPREADS.items():
                rivals[f"uqforce, with nll, components {name}"] = partial(evaluation, size, features, spread)
            name = f"preset {size}, {features} features, {COMPONENTS} components, {atoms} atoms, float32"
            yield Case(name, "atom", atoms, rivals, check)

"""What the score `nll` adds to energy and forces: potentials without and with a mixture, float32.

216 silicon atoms, cutoff 5 A, a mixture of 50 components on D features: NequIP's sizes S and M with D
channels of l = 0. The mixture is random: its cost does not depend on its values. `ratio` - 1 is the cost.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from systems import silicon, tensors
from timing import Case

from uqforce.deploy.export import call, open_model
from uqforce.model import ModelConfig, Potential
from uqforce.model.config import PRESETS
from uqforce.ops import neighbor_list

CUTOFF, COMPONENTS, REPEAT = 5.0, 50, 3


def evaluation(size: str, features: int, with_nll: bool) -> Callable[[], dict]:
    torch.manual_seed(0)
    channels = [features, *PRESETS[size]["num_features"][1:]]
    fields = {"type_names": ["Si"], "r_max": CUTOFF, "avg_num_neighbors": 28.0, "num_features": channels}
    potential = Potential(ModelConfig.from_preset(size, **fields))
    if with_nll:
        factors = torch.eye(features).repeat(COMPONENTS, 1, 1)
        potential.set_mixture(torch.randn(COMPONENTS, features), factors, torch.zeros(COMPONENTS))
    module, _ = open_model(potential)
    edge_index, _, edge_vec = neighbor_list(*tensors(silicon(REPEAT)), CUTOFF)
    zeros = torch.zeros(8 * REPEAT**3, dtype=torch.int64)
    return lambda: call(module, edge_vec, edge_index, zeros, zeros, 1)


def check(without: dict, with_nll: dict) -> None:
    torch.testing.assert_close(with_nll["forces"], without["forces"], rtol=0, atol=0)
    assert with_nll["nll"].shape == without["energies"].shape


def cases() -> Iterator[Case]:
    atoms = 8 * REPEAT**3
    for size in ("S", "M"):
        for features in (16, 32, 128):
            rivals = {
                "uqforce, energy and forces": partial(evaluation, size, features, False),
                "uqforce, with nll": partial(evaluation, size, features, True),
            }
            name = f"preset {size}, {features} features, {COMPONENTS} components, {atoms} atoms, float32"
            yield Case(name, "atom", atoms, rivals, check)

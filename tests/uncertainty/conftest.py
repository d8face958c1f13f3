"""Small random models with everything that an uncertainty is made of."""

import pytest
import torch

from uqforce.model import ModelConfig, Potential, sample_structure


def build(noise: str = "total", mixture: bool = True, seed: int = 0, **fields) -> Potential:
    torch.manual_seed(seed)
    config = ModelConfig(
        type_names=["H", "C", "O"], r_max=3.5, num_layers=2, l_max=1, num_features=[8, 4],
        radial_mlp_width=16, avg_num_neighbors=6.0, dtype="float64", noise=noise, **fields,
    )  # fmt: skip
    potential = Potential(config).eval()
    if mixture:
        features = potential(*sample_structure(potential)).features.double()
        spread = features.std(0)
        potential.set_mixture(
            features.mean(0).unsqueeze(0), torch.diag(1 / spread).unsqueeze(0), torch.zeros(1).double()
        )
    return potential


@pytest.fixture
def make_potential():
    """`make_potential(noise="total", mixture=True, seed=0, **fields)`."""
    return build


@pytest.fixture
def make_bare_potential():
    return lambda: build("none", mixture=False)

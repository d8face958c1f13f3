"""Small random models with everything a model can carry, and structures for them."""

import ase.build
import numpy as np
import pytest
import torch
from ase import Atoms

from uqforce.exporting.export import export
from uqforce.model import ModelConfig, Potential, sample_structure


def give_mixture(potential: Potential) -> None:
    """Two components about the features of a sample structure, and thresholds."""
    features = potential(*sample_structure(potential)).features.double()
    spread = features.std(0)
    potential.set_mixture(
        torch.stack([features.mean(0) - spread, features.mean(0) + spread]),
        torch.diag(1 / spread).repeat(2, 1, 1),
        torch.tensor([0.3, 0.7], dtype=torch.float64).log(),
    )
    potential.card["thresholds"] = {"nll": {"q0.99": 12.5, "max": 20.0}}


def build(dtype: str = "float64", mixture: bool = True, noise: str = "total") -> Potential:
    torch.manual_seed(0)
    config = ModelConfig(
        type_names=["H", "C", "O"],
        r_max=3.5,
        num_layers=2,
        l_max=2,
        num_features=[8, 8, 4],
        radial_mlp_width=16,
        avg_num_neighbors=10.0,
        dtype=dtype,
        noise=noise,
    )
    potential = Potential(config).eval()
    if mixture:
        give_mixture(potential)
    return potential


@pytest.fixture(scope="session")
def make_potential():
    """`make_potential(dtype="float64", mixture=True, noise="total")`."""
    return build


@pytest.fixture(scope="session")
def potential() -> Potential:
    return build()


@pytest.fixture(scope="session")
def exported(potential, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pt"
    export(potential, path)
    return path


@pytest.fixture
def molecule() -> Atoms:
    return ase.build.molecule("CH3CH2OH")


@pytest.fixture
def crystal() -> Atoms:
    """Twelve atoms in a triclinic cell smaller than twice the cutoff."""
    rng = np.random.default_rng(1)
    cell = [[4.6, 0, 0], [0.7, 4.9, 0], [-0.4, 0.6, 5.2]]
    grid = np.stack(np.meshgrid([0, 0.5], [0, 0.5], [0, 1 / 3, 2 / 3], indexing="ij"), -1).reshape(-1, 3)
    scaled = grid + 0.05 * rng.random((12, 3))
    return Atoms("H4C4O4", scaled_positions=scaled, cell=cell, pbc=True)

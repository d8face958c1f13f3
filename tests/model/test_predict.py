"""A model evaluated over a data set says of each structure what it says of it alone."""

import numpy as np
import pytest
from ase import Atoms

from tests.model.systems import CUTOFF, TYPES, make_potential
from uqforce.data import Dataset, collate, frame_from_atoms
from uqforce.model import Ensemble
from uqforce.model.predict import evaluating, predict, predict_dataset

NAMES = ("energy", "forces", "virial", "forces_uncertainty", "energy_ensemble", "forces_ensemble")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Five molecules of one to five atoms: two batches of two and one of one."""
    random = np.random.default_rng(0)
    frames = []
    for count in range(1, 6):
        positions = 1.5 * np.arange(count)[:, None] + 0.3 * random.random((count, 3))
        frames.append(frame_from_atoms(Atoms(random.choice(TYPES, count), positions)))
    return Dataset.build(frames, TYPES, CUTOFF)


@pytest.mark.parametrize("members", [1, 3])
def test_each_structure_as_if_alone(dataset, members):
    models = [make_potential(seed, noise="local") for seed in range(members)]
    model = (Ensemble(models) if members > 1 else models[0]).train()
    trained = [parameter.requires_grad for parameter in model.parameters()]
    found = predict_dataset(model, dataset, NAMES, batch_size=2)
    assert set(found) == set(NAMES if members > 1 else NAMES[:4])
    assert model.training and any(trained)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    with evaluating(model):
        alone = [predict(model, collate([dataset[i]])) for i in range(5)]
    for name, values in found.items():
        want = [getattr(prediction, name).numpy() for prediction in alone]
        want = np.concatenate(want, axis=1 if name.endswith("ensemble") else 0)
        assert values.dtype == np.float64 and values.shape == want.shape
        np.testing.assert_allclose(values, want, rtol=0, atol=1e-12)

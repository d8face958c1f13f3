"""One list of quantities: `uqforce.model.quantities`. What cannot be made of it is held against it here."""

import re
from pathlib import Path

import pytest
import torch

from tests.model.systems import evaluate, make_potential, random_system
from uqforce.engines.calculator import of_one_structure
from uqforce.engines.md import WATCHED, md
from uqforce.model import QUANTITIES, Ensemble, Graph, Prediction, named, sample_structure
from uqforce.model.calibration import Calibration
from uqforce.model.quantities import unit_in_name

ROOT = Path(__file__).parents[2]
SMALL = {"num_layers": 2, "l_max": 1, "num_features": [4, 3]}
PARTS = ("_aleatoric", "_epistemic")


def complete() -> torch.nn.Module:
    """An ensemble that gives every quantity there is."""
    model = Ensemble([make_potential(k, noise="local", **SMALL) for k in range(2)])
    first, d = model.members[0], model.members[0].network.num_last_features
    first.set_mixture(torch.zeros(1, d), torch.eye(d)[None], torch.zeros(1))
    first.rigidity.store(torch.eye(d))
    straight = torch.tensor([[1.0], [2.0]])
    model.calibration.store(energy=straight, forces=straight, error=straight)
    return model


def test_a_model_gives_all_of_them_and_nothing_else():
    found = complete().forward(graph())
    assert set(found) == set(QUANTITIES)


def graph() -> Graph:
    return Graph(*sample_structure(make_potential(0, **SMALL)))


def test_axes():
    """The first axis of every quantity is the one that the list names."""
    system = random_system([3, 4], periodic=True)
    sizes = {"atom": 7, "structure": 2, "member": 2}
    for name, value in evaluate(complete(), system).as_dict().items():
        axis = QUANTITIES[name].axis
        assert len(value) == sizes.get(axis, len(value)), name
        if axis == "member":
            assert value.shape[1] in (7, 2), name


def test_parts_are_like_the_whole():
    for name, quantity in QUANTITIES.items():
        for part in PARTS:
            if name.endswith(part):
                whole = QUANTITIES[name.removesuffix(part)]
                assert quantity == whole._replace(watch="")
                assert all(name.removesuffix(part) + other in QUANTITIES for other in PARTS)


def test_calibration_knows_every_factor():
    """All that the list has to say of a calibration is a factor that there is."""
    calibration = complete().calibration
    factors = calibration.factors(complete().forward(graph()), graph())
    assert set(calibration.calibrated.values()) == set(factors)
    assert set(Calibration().calibrated) <= set(QUANTITIES)


def test_one_structure_has_no_axis_of_structures():
    case = random_system([5], periodic=True)
    for name, value in evaluate(complete(), case).as_dict().items():
        found = of_one_structure(name, value.numpy())
        axes = {"structure": 1, "member": int(name != "forces_ensemble")}
        assert getattr(found, "ndim", 0) == value.ndim - axes.get(QUANTITIES[name].axis, 0), name


def test_dynamics_tell_of_all_that_they_watch():
    for name in WATCHED:
        assert QUANTITIES[name].axis == "atom" and f'"{name}"' in md.__doc__


def test_the_lammps_plugin_has_places_for_quantities_of_the_list():
    source = (ROOT / "csrc/lammps/uncertainties.cpp").read_text()
    places = re.findall(r'\{"(\w+)", false, (true|false), 1, kNone', source)
    assert len(places) == 3
    for name, per_atom in places:
        assert QUANTITIES[name].axis == ("atom" if per_atom == "true" else "structure")


@pytest.mark.parametrize("page", ["usage.md", "uncertainty.md"])
def test_the_docs_name_no_other(page):
    """Every name in the docs that looks like a quantity is one, and is written as in the list."""
    text = (ROOT / "docs" / page).read_text()
    stems = "|".join(sorted({name.split("_")[0] for name in QUANTITIES if "_" in name}))
    kinds = "uncertainty|covariance|variance|ensemble|error|gradient|llpr|aleatoric|epistemic"
    for name in set(re.findall(rf"`((?:{stems})_(?:\w*_)?(?:{kinds}))`", text)):
        assert name in QUANTITIES, name


def test_every_quantity_is_in_the_docs():
    text = (ROOT / "docs/usage.md").read_text() + (ROOT / "docs/uncertainty.md").read_text()
    for name in QUANTITIES:
        whole = name.removesuffix(PARTS[0]).removesuffix(PARTS[1])
        assert f"`{whole}`" in text, name


def test_names_and_units():
    assert named("score", "atom") == ("nll", "llpr")
    assert unit_in_name("eV/A") == "_eV_per_A" and unit_in_name("nat") == ""


def test_what_is_not_there_is_none():
    prediction = evaluate(make_potential(0, **SMALL), random_system([4], periodic=False))
    assert isinstance(prediction, Prediction) and prediction.nll is None
    assert set(prediction.as_dict()) == {
        *named("value", "atom"),
        *named("value", "structure"),
        "edge_gradient",
        "features",
    }

"""Members together give what they give apart: heads on one backbone, and independent potentials."""

import copy

import pytest
import torch

from tests.model.systems import CUTOFF, assert_same, evaluate, make_potential, random_system
from uqforce.model import Ensemble, Graph, Potential, first_member, inference_form, load_model, save_model
from uqforce.ops import neighbor_list

HEADS = 8
FORMS = ("none", "total", "local", "white")
SHARED = ("noise.layer.", "noise.type_embedding")  # by all heads
MEANS = ("energies", "energy", "forces", "virial", "edge_gradient")
ENSEMBLE = ("energy_ensemble", "forces_ensemble", "virial_ensemble")


def one_head(potential: Potential, head: int) -> Potential:
    """The potential of one of the heads: the same backbone."""
    single = make_potential(**{**potential.config.model_dump(), "heads": 1})
    state = single.state_dict()
    for name, value in potential.state_dict().items():
        if name == "network.readout.last.weight":
            state[name] = value[:, head : head + 1]
        elif name.startswith("noise.") and not name.startswith(SHARED):
            state[name] = value[head : head + 1]
        else:
            state[name] = value
    single.load_state_dict(state)
    return single


@pytest.fixture(params=FORMS, scope="module")
def heads(request) -> Potential:
    torch.manual_seed(1)
    potential = make_potential(heads=HEADS, noise=request.param)
    with torch.no_grad():  # not all gammas and constants alike
        for value in potential.noise.parameters():
            value += 0.1 * torch.randn_like(value)
    return potential


@pytest.fixture(scope="module")
def singles(heads) -> list[Potential]:
    return [one_head(heads, head) for head in range(HEADS)]


def close(got, want, name=""):
    bound = 1e-10 * max(1.0, want.abs().max().item())
    torch.testing.assert_close(got, want, rtol=0, atol=bound, msg=lambda text: f"{name}: {text}")


def tabulated(model: Potential | Ensemble):
    """The inference form with the coarsest tables: alike for all models compared, and made at once."""
    return inference_form(model, tolerance=1.0)


@pytest.mark.parametrize("form", ["network", "tables"])
def test_heads_together_equal_models_apart(heads, singles, form):
    """8 heads in one evaluation and 8 models in 8: energies, forces, virials, noise."""
    system = random_system([7, 1, 12], periodic=True)
    models = [heads, *singles]
    if form == "tables":
        models = [tabulated(model) for model in models]
    together, *separate = [evaluate(model, system) for model in models]
    for k, one in enumerate(separate):
        close(together.energy_ensemble[k], one.energy, "energy")
        close(together.forces_ensemble[k], one.forces, "forces")
        close(together.virial_ensemble[k], one.virial, "virial")
    for name in MEANS:
        close(getattr(together, name), torch.stack([getattr(one, name) for one in separate]).mean(0), name)
    assert torch.equal(together.features, separate[0].features)
    if heads.config.noise == "none":
        assert together.energy_uncertainty_aleatoric is None
        return
    of_noise = ("forces_covariance", "virial_covariance")
    for name in of_noise[:1] if heads.config.noise == "white" else of_noise:
        noise = torch.stack([getattr(one, name) for one in separate]).mean(0)
        close(getattr(together, f"{name}_aleatoric"), noise, name)
    variance = torch.stack([one.energy_uncertainty.square() for one in separate]).mean(0)
    close(together.energy_uncertainty_aleatoric.square(), variance, "energy variance")


def covariance(values, ddof: int):
    """values [M,...,d] -> [...,d,d] over members."""
    spread = values - values.mean(0)
    return torch.einsum("m...a,m...b->...ab", spread, spread) / (len(values) - ddof)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("inference", [False, True])
def test_an_ensemble_is_its_members(singles, ddof, inference):
    members = singles[:4]
    ensemble = Ensemble(members, ddof)
    assert ensemble.card["ensemble"] == {"kind": "independent", "members": 4, "ddof": ddof}
    system = random_system([7, 1, 12], periodic=True)
    models = [ensemble, *members]
    if inference:
        models = [tabulated(model) for model in models]
    together, *apart = [evaluate(model, system) for model in models]
    for name, of_each in zip(ENSEMBLE, ("energy", "forces", "virial")):
        close(getattr(together, name), torch.stack([getattr(one, of_each) for one in apart]), name)
    for name in MEANS:
        close(getattr(together, name), torch.stack([getattr(one, name) for one in apart]).mean(0), name)
    close(together.energy_uncertainty_epistemic, together.energy_ensemble.std(0, correction=ddof), "energy")
    close(together.forces_covariance_epistemic, covariance(together.forces_ensemble, ddof), "forces")
    virials = together.virial_ensemble
    virials = (0.5 * (virials + virials.mT))[:, :, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    close(together.virial_covariance_epistemic, covariance(virials, ddof), "virial")


def test_parts_add_up(heads):
    out = evaluate(heads, random_system([7, 12], periodic=True))
    carried = [
        part for part in ("aleatoric", "epistemic") if getattr(out, f"energy_uncertainty_{part}") is not None
    ]
    assert carried == ["epistemic"] if heads.config.noise == "none" else ["aleatoric", "epistemic"]
    for name in ("forces_covariance", "virial_covariance"):
        values = [getattr(out, f"{name}_{part}") for part in carried]
        if name == "virial_covariance" and heads.config.noise == "white":  # says nothing of virials
            values = values[1:]
        close(getattr(out, name), sum(values), name)
    for name in ("energy_uncertainty", "forces_uncertainty"):
        close(getattr(out, name) ** 2, sum(getattr(out, f"{name}_{part}") ** 2 for part in carried), name)
    trace = out.forces_covariance_epistemic.diagonal(dim1=1, dim2=2).sum(1)
    close(out.forces_uncertainty_epistemic, (trace / 3).sqrt())
    assert out.energy_ensemble.shape == (HEADS, 2) and out.forces_ensemble.shape == (HEADS, 19, 3)


def test_scripted_is_the_same_to_the_bit(heads, singles):
    system = random_system([7, 12], periodic=True)
    for model in (tabulated(heads), tabulated(Ensemble(singles[:3], 1))):
        scripted = torch.jit.freeze(torch.jit.script(model))
        assert_same(evaluate(scripted, system), evaluate(model, system))


@pytest.mark.parametrize("form", ["heads", "ensemble"])
def test_a_share_of_all_atoms_says_what_the_whole_does(heads, singles, form, monkeypatch):
    """One process of a parallel engine, whose messages are then its own; tests/lammps has several."""
    monkeypatch.setattr(torch.ops.uqforce, "ghost_exchange_vjp", lambda rows, owned: rows[:, :owned])
    monkeypatch.setattr(torch.ops.uqforce, "sum_over_ranks", lambda values: values)
    model = copy.deepcopy(heads) if form == "heads" else Ensemble(copy.deepcopy(singles[:3]), ddof=1)
    map_of_two = torch.tensor([[0.01, 1.0], [0.1, 2.0]], dtype=torch.float64)
    model.calibration.store(energy=map_of_two, forces=map_of_two, error=map_of_two)
    potential = first_member(model)
    potential.rigidity.store(torch.eye(potential.network.num_last_features))
    model = tabulated(model)
    system = random_system([12], periodic=True)
    n = neighbor_list(system.positions, system.cell, system.pbc, CUTOFF, system.batch)
    whole = evaluate(model, system)
    share = Graph(
        n.edge_vec, n.edge_index, system.atom_types, system.batch, 1, parallel=True, numbers=torch.arange(12)
    )
    domain = model.forward(share)
    for name, value in domain.items():
        want = getattr(whole, name)
        assert value.shape == want.shape, name
        close(value, want, name)


def test_one_file(heads, singles, tmp_path):
    """Members of different architecture, too; their cards and the ensemble's."""
    other = make_potential(3, num_layers=2, noise=heads.config.noise)
    ensemble = Ensemble([*singles[:2], other], ddof=1)
    ensemble.card["author"] = "test"
    other.card = {"training": {"seed": 3}}
    save_model(ensemble, tmp_path / "ensemble.uqf")
    loaded = load_model(tmp_path / "ensemble.uqf")
    assert isinstance(loaded, Ensemble) and loaded.card == ensemble.card and loaded.ddof == 1
    assert [m.config for m in loaded.members] == [m.config for m in ensemble.members]
    assert loaded.members[2].card == other.card
    system = random_system([7, 12], periodic=True)
    assert_same(evaluate(ensemble, system), evaluate(loaded, system))
    single = load_model(tmp_path / "ensemble.uqf", dtype="float32")
    assert {m.network.dtype for m in single.members} == {torch.float32}


def test_heads_in_a_file(heads, tmp_path):
    save_model(heads, tmp_path / "heads.uqf")
    system = random_system([7, 12], periodic=True)
    assert_same(evaluate(heads, system), evaluate(load_model(tmp_path / "heads.uqf"), system))


@pytest.mark.parametrize(
    ("changes", "ddof", "message"),
    [
        ([], 0, "an ensemble of 1 with ddof 0: give at least two"),
        ([{}], 2, "with ddof 2: give .* ddof 0 or 1"),
        ([{"type_names": ["H", "C", "N"], "per_type_energy_scales": 1.0, "per_type_energy_shifts": 0.0}], 0,
         "members differ in type_names"),
        ([{"r_max": 3.0}], 0, "members differ in r_max, "),
        ([{"noise": "total"}], 0, r"members differ in noise, \['none', 'total'\]: they must agree in"),
    ],
)  # fmt: skip
def test_members_that_do_not_belong_together(changes, ddof, message):
    with pytest.raises(ValueError, match=message):
        Ensemble([make_potential(), *(make_potential(**change) for change in changes)], ddof)


def test_the_score_is_the_first_members(singles):
    first = singles[0]
    d = first.network.num_last_features
    identity = torch.eye(d, dtype=torch.float64)[None]
    zeros = torch.zeros(1, d, dtype=torch.float64)
    first.set_mixture(zeros, identity, torch.zeros(1, dtype=torch.float64))
    system = random_system([7], periodic=True)
    ensemble = Ensemble(singles[:2])
    assert torch.equal(evaluate(ensemble, system).nll, evaluate(first, system).nll)

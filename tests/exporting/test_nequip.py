"""Models of nequip as ours: for random options, equal energies, forces, stresses and features.

nequip is given atoms and makes its own neighbour lists; nothing but the weights is shared.
"""

import random
import re

import numpy as np
import pytest
import torch
from ase import Atoms

from uqforce.errors import NequipError
from uqforce.exporting.nequip import (
    TOLERANCE,
    evaluate_nequip,
    import_model,
    nequip,
    relative_difference,
)
from uqforce.model import ModelConfig, Potential, sample_structure
from uqforce.ops import neighbor_list

pytest.importorskip("nequip", reason="nequip is not installed: pip install 'uqforce[nequip]'")
pytestmark = pytest.mark.filterwarnings("ignore:Found `per_type_energy")
TYPES = ["H", "C", "O", "Si"]


def random_options(seed: int) -> dict:
    """Arguments of NequIPGNNModel, every option drawn."""
    draw = random.Random(seed)
    types = draw.sample(TYPES, draw.randint(1, 3))
    l_max, r_max = draw.randint(0, 4), round(draw.uniform(2.5, 3.5), 2)

    def per_type(low: float, high: float) -> float | dict[str, float]:
        return draw.choice([draw.uniform(low, high), {name: draw.uniform(low, high) for name in types}])

    def cutoff() -> float | dict[str, float]:
        pairs = {name: draw.uniform(2.0, r_max) for name in types if draw.random() < 0.7}
        return draw.choice([r_max, round(draw.uniform(2.0, r_max), 3), pairs])

    zbl = {
        "_target_": "nequip.nn.pair_potential.ZBL",
        "units": "metal",
        "chemical_species": types,
    }
    return {
        "seed": seed,
        "model_dtype": ["float64", "float32"][seed % 2],
        "type_names": types,
        "r_max": r_max,
        "num_layers": draw.randint(1, 4 if l_max < 3 else 2),
        "l_max": l_max,
        "parity": draw.random() < 0.5,
        "num_features": draw.choice([draw.randint(1, 6), [draw.randint(1, 6) for _ in range(l_max + 1)]]),
        "type_embed_num_features": draw.choice([None, 1, 7]),
        "radial_mlp_depth": draw.randint(0, 3),
        "radial_mlp_width": draw.randint(1, 12),
        "readout_mlp_hidden_layers_depth": draw.randint(0, 2),
        "readout_mlp_hidden_layers_width": draw.choice([None, 3, 8]),
        "readout_mlp_nonlinearity": draw.choice(["silu", "mish", "gelu", None]),
        "num_bessels": draw.choice([8, 1, 12]),
        "bessel_trainable": draw.random() < 0.5,
        "polynomial_cutoff_p": draw.choice([6, 2, 4.5]),
        "avg_num_neighbors": per_type(1, 60),
        "per_type_energy_scales": draw.choice([None, per_type(0.1, 5)]),
        "per_type_energy_shifts": draw.choice([None, per_type(-1000, 5)]),
        "per_type_energy_scales_trainable": draw.random() < 0.5,
        "per_type_energy_shifts_trainable": draw.random() < 0.5,
        "per_edge_type_cutoff": draw.choice([None, {name: cutoff() for name in types}]),
        "pair_potential": draw.choice([None, zbl]),
    }


def build(target: str = "NequIPGNNModel", **options) -> torch.nn.Module:
    """A nequip model whose trainable scalars are not where they were initialised."""
    with nequip("nequip.model") as module:
        model = getattr(module, target)(**options).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(("bessel_weights", "scales", "shifts")):
            parameter.data.mul_(1 + 0.05 * torch.rand(parameter.shape, generator=generator))
    return model


def structures(types: list[str]) -> list[Atoms]:
    """A molecule, a crystal with a cell smaller than the cutoffs, a slab and a wire, all jittered."""
    rng = np.random.default_rng(0)
    cell = np.array([[2.7, 0, 0], [0.4, 2.9, 0], [-0.3, 0.5, 3.1]])
    repeated = []
    for pbc, repeat in [
        ((0, 0, 0), (3, 2, 1)),
        ((1, 1, 1), (1, 1, 1)),
        ((1, 1, 0), (2, 1, 2)),
        ((0, 0, 1), (2, 2, 1)),
    ]:
        atoms = Atoms(["H", "H"], scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=cell, pbc=pbc).repeat(
            repeat
        )
        atoms.symbols = [types[k % len(types)] for k in range(len(atoms))]
        atoms.positions += 0.3 * rng.random((len(atoms), 3))
        repeated.append(atoms)
    return repeated


def nequips_results(model: torch.nn.Module, atoms: Atoms) -> dict[str, torch.Tensor]:
    with nequip("nequip.data") as data, nequip("nequip.data.transforms") as transforms:
        types = model.type_names
        entry = data.from_ase(atoms)
        entry = transforms.ChemicalSpeciesToAtomTypeMapper(types, {name: name for name in types})(entry)
        entry = transforms.NeighborListTransform(r_max=float(model.metadata["r_max"]))(entry)
        out = model(entry)
    return {name: value.detach() for name, value in out.items()}


def our_edges(potential: Potential, atoms: Atoms) -> tuple:
    positions, cell = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array).unsqueeze(0)
    n = neighbor_list(positions, cell, torch.tensor(atoms.pbc).unsqueeze(0), potential.config.r_max)
    types = torch.tensor([potential.config.type_names.index(symbol) for symbol in atoms.symbols])
    return n.edge_vec, n.edge_index, types, torch.zeros_like(types), 1


@pytest.mark.parametrize("seed", range(36))
def test_random_options_equal_results(seed):
    options = random_options(seed)
    model = build(**options)
    potential = import_model(model)
    dtype = options["model_dtype"]
    assert potential.config.dtype == dtype
    for atoms in structures(options["type_names"]):
        edges = our_edges(potential, atoms)
        want, got = nequips_results(model, atoms), potential(*edges)
        shifts = potential.network.scale_shift.shifts.detach()[edges[2]]
        features = evaluate_nequip(model, *edges[:4])[2]
        stress = -got.virial / atoms.get_volume()
        differences = {
            "energies": relative_difference(got.energies, want["atomic_energy"].flatten(), shifts),
            "energy": relative_difference(got.energy, want["total_energy"].flatten(), shifts.sum()),
            "forces": relative_difference(got.forces, want["forces"]),
            "stress": relative_difference(stress, want["stress"]),
            "features": relative_difference(got.features, features),
        }
        assert max(differences.values()) <= TOLERANCE[dtype], differences


@pytest.mark.parametrize("preset", ["S", "M", "L", "XL"])
def test_presets(preset):
    model = build("PresetNequIPGNNModel", preset=preset, seed=0, model_dtype="float32", type_names=["Si"],
                  r_max=3.0, avg_num_neighbors=8.0, num_layers=2)  # fmt: skip
    config = import_model(model).config
    wanted = ModelConfig.from_preset(
        preset, type_names=["Si"], r_max=3.0, avg_num_neighbors=8.0, num_layers=2
    )
    assert config == wanted.model_copy(
        update={
            "per_type_energy_scales": config.per_type_energy_scales,
            "readout_mlp_hidden_layers_width": None,
        }
    )


def test_nequips_global_state_is_put_back():
    before = torch.get_default_dtype(), torch.random.get_rng_state(), np.random.get_state()[1]
    with nequip() as module:
        assert module.__version__ and torch.get_default_dtype() == torch.float64
        torch.rand(1), np.random.rand()
    assert torch.get_default_dtype() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], before[2])


SMALL = {"seed": 0, "model_dtype": "float64", "type_names": ["H", "O"], "r_max": 3.0, "num_layers": 2,
         "l_max": 1, "num_features": 4, "radial_mlp_width": 4, "avg_num_neighbors": 8.0}  # fmt: skip
FULL = {"seed": 0, "model_dtype": "float64", "type_names": ["H", "O"], "r_max": 3.0, "avg_num_neighbors": 8.0,
        "irreps_edge_sh": "0e+1o", "type_embed_num_features": 4, "radial_mlp_depth": [1, 1],
        "radial_mlp_width": [4, 4], "feature_irreps_hidden": ["4x0e+3x1o", "4x0e"]}  # fmt: skip


def zbl(**changes) -> dict:
    options = {"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal", "chemical_species": ["H", "O"]}
    return {"pair_potential": {**options, **changes}}


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("NequIPGNNModel", {"type_names": ["H", "Ow"]}, "chemical symbols, found ['Ow']"),
        ("NequIPGNNModel", zbl(units="real"), "ZBL in units other than metal"),
        ("NequIPGNNModel", zbl(polynomial_cutoff_p=4.0), "ZBL with polynomial_cutoff_p 4.0"),
        ("NequIPGNNModel", zbl(chemical_species=["O", "H"]), "ZBL between ['O', 'H']"),
        (
            "NequIPGNNModel",
            {"pair_potential": {"_target_": "nequip.nn.pair_potential.LennardJones", "lj_sigma": 1.0,
                                "lj_delta": 0.0, "lj_epsilon": 0.1}},
            "its part pair_potential, a LennardJones",
        ),
        ("FullNequIPGNNModel", {"radial_mlp_width": [4, 5]}, "unequal radial networks"),
        ("FullNequIPGNNModel", {"feature_irreps_hidden": ["4x0e+3x1o+1x1e", "4x0e"]}, "hidden irreps"),
        ("FullNequIPGNNModel", {"feature_irreps_hidden": ["5x0e+3x1o", "4x0e"]}, "last irreps 4x0e"),
        ("FullNequIPGNNModel", {"learnable_shift": True}, "learnable_shift"),
        ("FullNequIPGNNModel", {"convnet_sc": False}, "convnet_sc"),
        ("FullNequIPGNNModel", {"convnet_resnet": True, "feature_irreps_hidden": ["4x0e", "4x0e"]}, "resnet"),
        ("FullNequIPGNNModel", {"convnet_nonlinearity_type": "norm"}, "NormActivation"),
        ("FullNequIPGNNModel", {"convnet_nonlinearity_gates": {"e": "tanh", "o": "tanh"}}, "activations"),
        ("FullNequIPGNNModel", {"readout_mlp_hidden_layers_depth": 1, "readout_mlp_nonlinearity": "tanh"},
         "readout_mlp_nonlinearity Tanh"),
        ("ZBLPairPotential", {}, "it has no type_embed"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_is_named(target, changes, message):
    base = {"NequIPGNNModel": SMALL, "FullNequIPGNNModel": FULL, "ZBLPairPotential": zbl()["pair_potential"]}[
        target
    ]
    if target == "ZBLPairPotential":
        base = {key: SMALL[key] for key in ("seed", "model_dtype", "type_names", "r_max")} | {
            "chemical_species": ["H", "O"], "units": "metal"}  # fmt: skip
    with pytest.raises(NequipError, match=re.escape(message)):
        import_model(build(target, **{**base, **changes}))


def test_a_model_that_nequip_would_compile():
    eager, compiled = import_model(build(**SMALL)), import_model(build(compile_mode="compile", **SMALL))
    for name, value in eager.state_dict().items():
        assert torch.equal(compiled.state_dict()[name], value), name


def test_several_models_are_refused():
    model = build(**SMALL)
    assert import_model(torch.nn.ModuleDict({"sole_model": model})).config.r_max == 3.0
    with pytest.raises(NequipError, match="not one GraphModel"):
        import_model(torch.nn.ModuleDict({"first": model, "second": model}))


def test_a_changed_computation_is_noticed():
    """What no option says is found by the comparison with nequip."""
    model = build(**SMALL)
    model.model.func.layer1_convnet.conv.linear_1.register_forward_hook(lambda module, x, out: 1.001 * out)
    with pytest.raises(NequipError, match="its results differ from uqforce's"):
        import_model(model)


def test_parameters_are_not_left_behind():
    model = build(**SMALL)
    model.model.func.layer1_convnet.extra = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(NequipError, match=r"parameters layer1_convnet\.extra"):
        import_model(model)


def test_other_energy_units():
    model = build(**SMALL, per_type_energy_scales=2.0, per_type_energy_shifts={"H": -1.0, "O": -2.0})
    electronvolts, other = import_model(model), import_model(model, energy_unit="kcal/mol")
    case = sample_structure(other)
    torch.testing.assert_close(other(*case).forces, 0.0433641042 * electronvolts(*case).forces)
    torch.testing.assert_close(other(*case).energies, 0.0433641042 * electronvolts(*case).energies)
    assert other.config.per_type_energy_shifts["O"] == pytest.approx(-2 * 0.0433641042, rel=0.1)
    with pytest.raises(NequipError, match="unknown energy unit 'cal'"):
        import_model(model, energy_unit="cal")

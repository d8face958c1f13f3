"""Files for pair_nequip_allegro: nequip's own loader and calculator run them, and so would the pair style."""

import warnings

import ase.build
import numpy as np
import pytest
import torch

from uqforce import Calculator
from uqforce.errors import ExportError
from uqforce.exporting.exported_potential import ExportedPotential
from uqforce.exporting.pair_nequip import (
    INPUTS,
    OUTPUTS,
    PairNequip,
    export_pair_nequip,
    file_metadata,
    sample,
)
from uqforce.model import ModelConfig, Potential

KEYS = {"r_max": "", "per_edge_type_cutoff": "", "type_names": "", "num_types": "", "allow_tf32": ""}


@pytest.fixture(scope="module")
def exported(potential, tmp_path_factory):
    path = tmp_path_factory.mktemp("nequip") / "model.nequip.pth"
    export_pair_nequip(potential, path)
    return path


def test_as_the_pair_style_calls_it(exported, potential, fresh_process, tmp_path):
    """Loaded with the style's keys, frozen as it freezes, one dictionary in, its outputs read as double."""
    case = sample(ExportedPotential(potential), seed=3)
    torch.save(case, tmp_path / "case")
    fresh_process(
        f"""
        extra = {KEYS!r}
        model = torch.jit.load(sys.argv[1], _extra_files=extra)
        model.eval()
        if hasattr(model, "training"):
            model = torch.jit.freeze(model)
        case = torch.load("case")
        extra = {{key: value.decode() if value else "" for key, value in extra.items()}}
        torch.save(([model(case) for _ in range(3)], extra), "out")
        """,
        exported,
    )
    results, text = torch.load(tmp_path / "out")
    assert float(text["r_max"]) == 3.5 and text["type_names"].split() == ["H", "C", "O"]
    assert int(text["num_types"]) == 3 and int(text["allow_tf32"]) == 0 and not text["per_edge_type_cutoff"]
    order = case["edge_index"][0].argsort(stable=True)
    shift = case["edge_cell_shift"] @ case["cell"][0]
    pos, (centre, neighbor) = case["pos"], case["edge_index"]
    edge_vec = (pos[neighbor] - pos[centre] + shift)[order]
    zeros = torch.zeros(27, dtype=torch.int64)
    want = potential(edge_vec, case["edge_index"][:, order], case["atom_types"], zeros, 1)
    volume = torch.linalg.det(case["cell"]).abs()
    for out in results:
        assert out["atomic_energy"].shape == (27, 1) and out["virial"].shape == (1, 3, 3)
        assert all(value.dtype == torch.float64 for value in out.values())
        for key, value in {
            "atomic_energy": want.energies[:, None],
            "total_energy": want.energy[:, None],
            "forces": want.forces,
            "virial": want.virial,
            "stress": -want.virial / volume,
            "nll": want.nll[:, None],
            "forces_uncertainty": want.forces_uncertainty[:, None],
            "energy_uncertainty": want.energy_uncertainty[:, None],
        }.items():
            torch.testing.assert_close(out[key], value, rtol=0, atol=1e-8)


def test_nequips_calculator(exported, potential, crystal, molecule):
    integration = pytest.importorskip("nequip.integrations.ase")
    torch.set_default_dtype(torch.float64)  # which nequip does once in a process only
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = integration.NequIPCalculator.from_compiled_model(exported, device="cpu")
    ours = Calculator(potential)
    for atoms in (crystal, molecule, ase.build.molecule("H2O")):
        for quantity in ("energy", "forces", *(["stress"] if atoms.pbc.any() else [])):
            got, want = (calculator.get_property(quantity, atoms) for calculator in (theirs, ours))
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-8, err_msg=quantity)


def test_cutoffs_of_pairs(exported, potential):
    """One number for each pair of types, row by row; nothing where they are all the same."""
    assert "per_edge_type_cutoff" not in file_metadata(ExportedPotential(potential))
    config = {"type_names": ["H", "O"], "r_max": 3.5, "num_layers": 2, "l_max": 1, "num_features": [4]}
    other = Potential(ModelConfig(**config, per_edge_type_cutoff={"H": {"O": 2.0}})).eval()
    table = np.array(file_metadata(ExportedPotential(other))["per_edge_type_cutoff"].split(), dtype=float)
    np.testing.assert_array_equal(table.reshape(2, 2), other.config.cutoff_table())
    assert table[1] == 2.0


def test_other_names_are_refused(potential, tmp_path):
    with pytest.raises(ExportError, match=r"names that end in \.nequip\.pth or \.nequip\.pt2"):
        export_pair_nequip(potential, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_compiled(potential, tmp_path):
    """The same by AOTInductor: nequip imports our ops by a line in the file, and finds its keys in order."""
    loader = pytest.importorskip("nequip.model.inference_models")
    path = tmp_path / "model.nequip.pt2"
    export_pair_nequip(potential, path)
    model, metadata = loader.load_compiled_model(str(path), "cpu", None, None)
    assert metadata["r_max"] == 3.5 and metadata["type_names"] == ["H", "C", "O"]
    case = sample(ExportedPotential(potential), seed=4)
    out = model(dict(case))
    assert list(case) == INPUTS and {*OUTPUTS, "nll", "forces_uncertainty"} <= set(out)
    want = PairNequip(ExportedPotential(potential), [])(case)
    for key in OUTPUTS:
        torch.testing.assert_close(out[key], want[key], rtol=0, atol=1e-9)

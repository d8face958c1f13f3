"""Errors and uncertainty quality against numbers computed by hand."""

import json

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from uqforce.data import read_frames
from uqforce.engines.calculator import Calculator
from uqforce.engines.evaluate import evaluate, predict_frames
from uqforce.errors import DataError
from uqforce.evaluation import metrics, vectors
from uqforce.evaluation.tables import table
from uqforce.exporting.export import export
from uqforce.exporting.opening import open_model
from uqforce.model import save_model
from uqforce.uncertainty.calibration_fit import score_at_error


@pytest.fixture
def no_figures(monkeypatch):
    """They take most of the time of an evaluation."""
    monkeypatch.setattr("uqforce.engines.evaluate.draw", lambda *_: None)


@pytest.fixture(scope="module")
def labelled(potential, tmp_path_factory):
    """Files of crystals and molecules labelled by the model plus known noise, and the noise."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    calculator = Calculator(potential, device="cpu")
    known = {}
    for name, cell in (("crystal", 4.9), ("molecule", None)):
        frames, noise = [], {"energy": [], "forces": [], "stress": [], "nll": [], "symbols": []}
        for _ in range(12):
            grid = 1.7 * np.stack(np.meshgrid(*[range(2)] * 3), -1).reshape(-1, 3)
            atoms = ase.Atoms("H3C3O2", positions=grid + 0.4 * rng.random((8, 3)))
            if cell:
                atoms.set_cell([cell] * 3)
                atoms.pbc = True
            calculator.calculate(atoms)
            results = {
                key: calculator.results[key]
                for key in ("energy", "forces", "stress")
                if key in calculator.results
            }
            nll = calculator.results["nll"]
            draws = {
                "energy": 0.5 * rng.normal(),
                "forces": 0.2 * rng.normal(size=(8, 3)) * (1 + (nll > np.median(nll)))[:, None],
                "stress": 0.01 * rng.normal(size=6),
            }
            labels = {key: value + draws[key] for key, value in results.items()}
            atoms.calc = SinglePointCalculator(atoms, **labels)
            frames.append(atoms)
            for key in results:
                noise[key].append(draws[key])
            noise["nll"].append(nll)
            noise["symbols"] += atoms.get_chemical_symbols()
        ase.io.write(folder / f"{name}.extxyz", frames)
        known[folder / f"{name}.extxyz"] = noise
    return known


def test_errors_and_ranking(potential, exported, labelled, tmp_path, no_figures):
    report = evaluate(exported, list(labelled), tmp_path, device="cpu")
    for path, noise in labelled.items():
        found = report["sets"][str(path)]
        energy, forces = np.array(noise["energy"]) / 8, np.concatenate(noise["forces"])
        assert found["structures"] == 12 and found["atoms"] == 96
        assert found["errors"]["energy_per_atom"]["mae"] == pytest.approx(np.abs(energy).mean(), rel=1e-4)
        assert found["errors"]["forces"]["rmse"] == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-4)
        carbon = forces[np.array(noise["symbols"]) == "C"]
        assert found["errors"]["forces_per_type"]["C"]["mae"] == pytest.approx(
            np.abs(carbon).mean(), rel=1e-4
        )
        if noise["stress"]:
            full = np.array(noise["stress"])[:, [0, 1, 2, 3, 4, 5, 3, 4, 5]]
            assert found["errors"]["stress"]["mae"] == pytest.approx(np.abs(full).mean(), rel=1e-3)
        else:
            assert "stress" not in found["errors"]
        error, nll = np.sqrt(np.mean(forces**2, 1)), np.concatenate(noise["nll"])
        quality = found["uncertainty"]["nll"]
        assert quality["spearman"] == pytest.approx(metrics.spearman(nll, error), abs=1e-3)
        assert quality["positives_0.2"] == np.count_nonzero(error > 0.2)
        expected = metrics.classification(nll, error, 0.2).auroc
        assert quality["auroc_0.2"] == pytest.approx(expected, abs=1e-3) and expected > 0.6
        assert quality["positives_top_tenth"] == 10
        assert quality["ause"] == pytest.approx(metrics.ause(nll, error), abs=1e-3)
        assert "zms" not in quality


def test_standard_deviations_are_judged(potential, labelled, tmp_path, no_figures):
    """Per component by the covariance's diagonal, as vectors by the covariance, energies per structure."""
    report = evaluate(potential, list(labelled), tmp_path, device="cpu")
    module, metadata = open_model(potential)
    for path, noise in labelled.items():
        forces, energy = np.concatenate(noise["forces"]), np.array(noise["energy"])
        said = predict_frames(module, metadata, read_frames(path), torch.device("cpu"))
        covariance = said["forces_covariance"]
        std = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        found = report["sets"][str(path)]["uncertainty"]
        assert set(found) == {"nll", "forces_uncertainty", "energy_uncertainty"}  # parts are the whole here
        for key, value in {
            "zms": metrics.zms(forces.ravel(), std.ravel()),
            "block_nll": vectors.block_nll(forces, covariance),
            "energy_score": vectors.energy_score(forces, covariance),
            "coverage_90": metrics.interval_coverage(forces.ravel(), std.ravel(), 0.9),
        }.items():
            assert found["forces_uncertainty"][key] == pytest.approx(value, rel=1e-3)
        crps = metrics.gaussian_crps(energy, said["energy_uncertainty"])
        assert found["energy_uncertainty"]["crps"] == pytest.approx(crps, rel=1e-3)
    shift = report["sets"][str(path)]["uncertainty"]["nll"]["auroc_shift"]
    assert 0 <= shift <= 1
    text = table(report)
    assert "energy score (meV/A)" in text and "AUROC, told from the first set" in text


def test_before_and_after_calibration(make_potential, labelled, tmp_path):
    potential, file = make_potential(), list(labelled)[:1]
    plain = evaluate(potential, file, tmp_path / "plain", device="cpu")
    potential.calibration.store(forces=torch.tensor([[1.0], [2.0]]), energy=torch.tensor([[1.0], [3.0]]),
                                error=torch.tensor([[1.0], [0.1]]), origin=torch.tensor(-1e4))  # fmt: skip
    potential.card["calibration"] = {"kind": "scale"}
    save_model(potential, tmp_path / "model.uqf")
    report = evaluate(tmp_path / "model.uqf", file, tmp_path / "both", device="cpu")
    assert report["model"]["calibration"] == {"kind": "scale"}
    found = report["sets"][str(file[0])]
    before, after = found["uncertainty"], found["calibrated"]
    assert before == plain["sets"][str(file[0])]["uncertainty"]
    for key, factor in (("forces_uncertainty", 2), ("energy_uncertainty", 3)):
        assert after[key]["zms"] == pytest.approx(before[key]["zms"] / factor**2, rel=1e-9)
        assert after[key]["spearman"] == pytest.approx(before[key]["spearman"], abs=1e-9)
    assert "forces_error" in after and "forces_error" not in before
    assert after["forces_error"]["spearman"] == pytest.approx(before["nll"]["spearman"], abs=1e-9)
    assert "crystal.extxyz calibrated" in table(report)
    assert (tmp_path / "both/forces_error_quality.png").exists()
    export(potential, tmp_path / "model.pt")  # which only knows the calibrated ones
    exported = evaluate(tmp_path / "model.pt", file, tmp_path / "exported", device="cpu")
    got = exported["sets"][str(file[0])]["uncertainty"]
    assert got["forces_uncertainty"]["zms"] == pytest.approx(after["forces_uncertainty"]["zms"], rel=1e-3)


def test_ranking_of_structures(potential, labelled, tmp_path, no_figures):
    report = evaluate(potential, list(labelled), tmp_path, device="cpu")
    for path, noise in labelled.items():
        nll, forces = np.array(noise["nll"]), np.array(noise["forces"])
        energy = np.abs(noise["energy"]) / 8
        atom = np.sqrt(np.mean(forces**2, axis=2))
        found = report["sets"][str(path)]["uncertainty"]["nll"]["structures"]
        for kind, score in (("mean", nll.mean(1)), ("max", nll.max(1)), ("sum", nll.sum(1))):
            wanted = {
                "forces_rmse": np.sqrt(np.mean(forces**2, axis=(1, 2))),
                "largest_atom_error": atom.max(1),
                "energy_per_atom": energy,
            }
            assert found[kind] == pytest.approx(
                {name: metrics.spearman(score, error) for name, error in wanted.items()}, abs=1e-6
            )
    assert "molecule.extxyz, max" in table(report) and "largest force error" in table(report)


def test_limits_are_of_all_sets_together(potential, labelled, tmp_path, no_figures):
    report = evaluate(potential, list(labelled), tmp_path, device="cpu")
    nll = np.concatenate([score for noise in labelled.values() for score in noise["nll"]])
    forces = np.concatenate([f for noise in labelled.values() for f in noise["forces"]])
    error = np.sqrt(np.mean(forces**2, axis=1))
    for level, limit in report["limits"]["nll"].items():
        expected = score_at_error(nll, error, float(level))
        assert limit == (pytest.approx(expected, rel=1e-6) if np.isfinite(expected) else None)
    assert None in report["limits"]["nll"].values() and report["limits"]["nll"]["0.3"] is not None
    assert f"{report['limits']['nll']['0.3']:.3f}" in table(report)


def test_files_and_table(potential, labelled, tmp_path):
    report = evaluate(potential, list(labelled), tmp_path, device="cpu", bootstrap=20)
    assert json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail) == report
    for name in ("parity", *(f"{score}{kind}" for score in ("nll", "forces_uncertainty")
                             for kind in ("", "_rates", "_quality"))):  # fmt: skip
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    text = table(report)
    assert "crystal.extxyz" in text and "meV/atom" in text and "top tenth" in text
    quality = report["sets"][str(next(iter(labelled)))]["uncertainty"]["forces_uncertainty"]
    for key in ("zms", "block_nll"):
        low, high = quality["intervals"][key]
        assert low < high and f"[{low:.3f}, {high:.3f}]" in text


def test_bic_curve(make_potential, labelled, tmp_path):
    """Kept in the report and drawn, where there was a search."""
    potential, file = make_potential(), list(labelled)[:1]
    trials = [{"components": n, "bic": 100.0 + abs(n - 3)} for n in range(1, 6)]
    for name, kept in (("search", trials), ("given", trials[2:3])):
        potential.card["mixture"] = {"components": 3, "bic": 100.0, "trials": kept}
        report = evaluate(potential, file, tmp_path / name, device="cpu")
        assert report["model"]["mixture"]["trials"] == kept
        assert (tmp_path / name / "bic.png").exists() == (name == "search")


def test_undefined_auroc_is_null(potential, molecule, tmp_path, no_figures):
    """A model judged on its own labels makes no error: no positives, no AUROC, and valid JSON."""
    molecule.calc = Calculator(potential, device="cpu")
    molecule.get_forces()
    ase.io.write(tmp_path / "own.extxyz", molecule)
    report = evaluate(potential, [tmp_path / "own.extxyz"], tmp_path, device="cpu")
    quality = report["sets"][str(tmp_path / "own.extxyz")]["uncertainty"]["nll"]
    assert quality["positives_0.1"] == 0 and quality["auroc_0.1"] is None
    json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert "- (0)" in table(report)


def test_bad_data(potential, molecule, tmp_path):
    ase.io.write(tmp_path / "bare.extxyz", molecule)
    with pytest.raises(DataError, match="neither energy nor forces"):
        evaluate(potential, [tmp_path / "bare.extxyz"], tmp_path, device="cpu")
    molecule.calc = SinglePointCalculator(molecule, energy=1.0)
    molecule.symbols[0] = "Xe"
    ase.io.write(tmp_path / "xenon.extxyz", molecule)
    with pytest.raises(DataError, match="Xe, not in type_names"):
        evaluate(potential, [tmp_path / "xenon.extxyz"], tmp_path, device="cpu")

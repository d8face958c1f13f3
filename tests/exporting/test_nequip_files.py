"""A model that nequip trained: from its checkpoint and its package to ours, fitted and exported, and back."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import ase.build
import ase.io
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import uqforce
from tests.exporting.test_nequip import build, random_options
from uqforce.cli import main
from uqforce.errors import NequipError
from uqforce.exporting.nequip import export_nequip, import_model, nequip, relative_difference, to_nequip
from uqforce.model import Potential, load_model, save_model

pytest.importorskip("nequip", reason="nequip is not installed: pip install 'uqforce[nequip]'")
pytestmark = pytest.mark.filterwarnings("ignore:Found `per_type_energy")


SMALL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 0,
    "model_dtype": "float64",
    "type_names": ["Cu", "Al"],
    "r_max": 3.5,
    "num_layers": 2,
    "l_max": 1,
    "num_features": 4,
    "radial_mlp_width": 8,
    "avg_num_neighbors": 20.0,
    "per_type_energy_shifts": {"Cu": -0.1, "Al": 0.1},
    "per_type_energy_scales": 1.3,
    "per_type_energy_scales_trainable": True,
}


def nequip_config(model: dict) -> dict:
    """Two epochs on `train.xyz`, weights averaged."""
    types, r_max = model["type_names"], model["r_max"]
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 4}
    mapper = {
        "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
        "model_type_names": types,
        "chemical_species_to_atom_type_map": {name: name for name in types},
    }
    data = {
        "_target_": "nequip.data.datamodule.ASEDataModule",
        "seed": 0,
        "train_file_path": "train.xyz",
        "val_file_path": "train.xyz",
        "transforms": [mapper, {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": r_max}],
        "train_dataloader": loader,
        "val_dataloader": loader,
    }
    save = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": ".", "filename": "trained"}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = {
        "_target_": "lightning.Trainer",
        "max_epochs": 2,
        "accelerator": "cpu",
        "callbacks": [save],
        **quiet,
    }
    training = {
        "_target_": "nequip.train.EMALightningModule",
        "ema_decay": 0.9,
        "loss": {"_target_": "nequip.train.EnergyForceLoss", "coeffs": {"total_energy": 1.0, "forces": 1.0}},
        "val_metrics": {
            "_target_": "nequip.train.EnergyForceMetrics",
            "coeffs": {"total_energy_mae": 1.0, "forces_mae": 1.0},
        },
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.02},
        "model": model,
    }
    return {"run": ["train"], "data": data, "trainer": trainer, "training_module": training}


def run_nequip(folder: Path, model: dict) -> None:
    """Train and package by nequip's own commands: trained.ckpt and trained.nequip.zip beside train.xyz."""
    (folder / "config.yaml").write_text(yaml.safe_dump(nequip_config(model)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, arguments in {
        "train": ["-cp", str(folder), "-cn", "config", "hydra.run.dir=."],
        "package": ["build", "trained.ckpt", "trained.nequip.zip"],
    }.items():
        code = f"from nequip.scripts.{name} import main; main()"
        command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folder with train.xyz and what nequip's commands make of it: trained.ckpt, trained.nequip.zip."""
    folder = tmp_path_factory.mktemp("nequip")
    frames = []
    for seed in range(8):
        atoms = ase.build.bulk("Cu", cubic=True)
        atoms.symbols = "CuAlCuAl"
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    ase.io.write(folder / "train.xyz", frames)
    run_nequip(folder, SMALL)
    return folder


@pytest.mark.parametrize("name", ["trained.ckpt", "trained.nequip.zip"])
def test_import_from_the_command_line(trained, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    path, digest = trained / name, hashlib.sha256((trained / name).read_bytes()).hexdigest()
    assert main(["import", str(path), "-o", "model.uqf"]) == 1
    said = capsys.readouterr().err
    assert digest in said and "runs code when it is read" in said and "--trust" in said
    assert not Path("model.uqf").exists()

    assert main(["import", str(path), "-o", "model.uqf", "--trust"]) == 0
    assert f"sha256 {digest}" in capsys.readouterr().out
    potential = load_model("model.uqf")
    card = potential.card["imported"]
    assert card["file"] == name and card["sha256"] == digest and card["from"] == "nequip 0.19.1"
    assert potential.config.per_type_energy_scales["Cu"] != 1.3  # trained
    # the averaged weights, not the last ones
    raw = torch.load(trained / "trained.ckpt", weights_only=False)["state_dict"]
    key = next(key for key in raw if key.endswith("type_embed.embed_module.weight"))
    assert torch.equal(potential.network.type_embedding, raw["ema.ema_weight_0"])
    assert not torch.equal(potential.network.type_embedding, raw[key])


def test_the_package_equals_the_checkpoint(trained):
    quiet = {"trust": True}
    checkpoint = uqforce.import_model(trained / "trained.ckpt", **quiet)
    package = uqforce.import_model(trained / "trained.nequip.zip", **quiet)
    assert checkpoint.config == package.config
    for name, value in checkpoint.state_dict().items():
        assert torch.equal(package.state_dict()[name], value), name


def assert_same_calculators(
    checkpoint: Path, ours: uqforce.Calculator, atoms: Atoms, tolerance: float
) -> None:
    """Energy, forces and, where they are periodic, stresses of the atoms are those of nequip's calculator."""
    with nequip("nequip.integrations.ase") as theirs:
        calculator = theirs.NequIPCalculator._from_saved_model(
            str(checkpoint), device="cpu", chemical_species_to_atom_type_map=True
        )
        names = ["energies", "forces", "stress"] if atoms.pbc.any() else ["energies", "forces"]
        results = []
        for atoms.calc in (calculator, ours):
            results.append([torch.tensor(atoms.calc.get_property(name, atoms)) for name in names])
    isolated = ours.isolated_energies[ours.atom_types(atoms)]
    for name, want, got in zip(names, *results):
        offset = isolated if name == "energies" else 0.0
        assert relative_difference(got, want, offset) <= tolerance, name


def test_the_same_as_nequips_calculator(trained):
    potential = import_model(trained / "trained.ckpt", trust=True)
    ours = uqforce.Calculator(potential, device="cpu")
    atoms = ase.io.read(trained / "train.xyz")
    assert_same_calculators(trained / "trained.ckpt", ours, atoms, 1e-9)  # the tables of ours: 1e-10


@pytest.mark.slow
def test_a_preset_trained_on_3bpa(data_dir, tmp_path, monkeypatch):
    """nequip trains its size S on real data; imported, fitted, exported, and run in dynamics."""
    monkeypatch.chdir(tmp_path)
    frames = ase.io.read(data_dir / "3bpa" / "train_300K.xyz.xz", ":40")
    ase.io.write("train.xyz", frames)
    isolated = ase.io.read(data_dir / "3bpa" / "iso_atoms.xyz", ":")
    energies = {str(atom.symbols): float(atom.get_potential_energy()) for atom in isolated}
    preset = {
        "_target_": "nequip.model.PresetNequIPGNNModel",
        "preset": "S",
        "seed": 0,
        "model_dtype": "float32",
        "type_names": list(energies),
        "r_max": 5.0,
        "avg_num_neighbors": 16.0,
        "per_type_energy_shifts": energies,
    }
    run_nequip(tmp_path, preset)
    assert main(["import", "trained.nequip.zip", "-o", "model.uqf", "--trust"]) == 0
    assert main(["fit", "model.uqf", "train.xyz", "--in-place", "--components", "4"]) == 0
    assert main(["export", "model.uqf", "-o", "model.pt"]) == 0
    calculator = uqforce.Calculator("model.pt", device="cpu")
    for atoms in ase.io.read(data_dir / "3bpa" / "test_1200K_100.xyz.xz", ":3"):
        assert_same_calculators(tmp_path / "trained.ckpt", calculator, atoms, 2e-5)  # lengths in float32
        assert atoms.calc.results["nll"].shape == (27,)
    assert main(["md", "model.pt", "train.xyz", "-o", "run", "--steps", "10", "--temperature", "300"]) == 0


def test_the_snippets_of_the_page(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("trained.ckpt", "train.xyz"):
        shutil.copy(trained / name, name)
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    snippets = dict(re.findall(r"^```(bash|python)\n(.*?)^```$", page, re.M | re.S))
    for line in snippets["bash"].splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "uqforce" and main(arguments) == 0, line
    names: dict = {}
    with nequip():  # puts back what the snippet does to the process
        exec(snippets["python"], names)
    fitted = load_model("model.uqf")
    assert fitted.mixture.means.shape[0] == 2
    for potential in (names["potential"], names["again"]):
        assert potential.config == fitted.config
        for name, value in fitted.network.state_dict().items():
            assert torch.equal(potential.network.state_dict()[name], value), name


@pytest.mark.parametrize("seed", range(12))
def test_round_trip(seed, tmp_path):
    """uqforce -> nequip -> uqforce: the same configuration and bitwise the same weights."""
    potential = import_model(build(**random_options(seed)))
    back = import_model(to_nequip(potential))
    assert back.config == potential.config
    for name, value in potential.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name


def test_round_trip_of_a_file(make_potential, tmp_path, monkeypatch, capsys):
    """nequip's own loader reads it, without any code in the file; what stays behind is said."""
    monkeypatch.chdir(tmp_path)
    potential: Potential = make_potential("float32")
    save_model(potential, "model.uqf")
    assert main(["export", "model.uqf", "--format", "nequip-state", "-o", "model.ckpt"]) == 0
    assert "no place for the mixture and the noise" in capsys.readouterr().out
    torch.load("model.ckpt", weights_only=True)
    back = import_model("model.ckpt", trust=True)
    for name, value in potential.network.state_dict().items():
        assert torch.equal(back.network.state_dict()[name], value), name
    with nequip("nequip.model") as models:
        graph = models.ModelFromCheckpoint("model.ckpt")["sole_model"]
    assert graph.type_names == potential.config.type_names


def test_nothing_is_left_where_nequip_reads_something_else(make_potential, tmp_path, monkeypatch):
    potential = make_potential()
    monkeypatch.setattr(
        "uqforce.exporting.nequip.to_nequip", lambda _: to_nequip(Potential(potential.config))
    )
    with pytest.raises(NequipError, match="nequip reads another"):
        export_nequip(potential, tmp_path / "model.ckpt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.ckpt", "does not exist"), ("noise.ckpt", "cannot read"), ("noise.nequip.zip", "cannot read")],
)
def test_files_that_are_not_nequips(tmp_path, monkeypatch, capsys, name, message):
    monkeypatch.chdir(tmp_path)
    Path("noise.ckpt").write_bytes(b"noise")
    Path("noise.nequip.zip").write_bytes(b"noise")
    assert main(["import", name, "-o", "model.uqf", "--trust"]) == 1
    assert message in capsys.readouterr().err

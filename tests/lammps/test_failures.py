"""Every failure ends all ranks with a sentence; the run never goes on."""

import json
import shutil
import warnings
import zipfile

import pytest
import torch
from ase import Atoms

from tests.lammps.conftest import PLUGIN_FOLDER
from tests.lammps.systems import TYPES, begin, build, data_file, structures
from uqforce._library import LIBRARY_PATH
from uqforce.deploy.export import export
from uqforce_lammps.build import PLUGIN


def fails(lammps, folder, model, sentence: str, atoms: Atoms | None = None, **changes: str) -> None:
    """The run on two ranks fails with the sentence and does not reach the command after the failing one."""
    (folder / "0.data").write_text(data_file(atoms or structures()["molecule in vacuum"]))
    text = begin(atoms or structures()["molecule in vacuum"], model, "0.data")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    done = lammps(folder, text + "run 1\nprint 'it went on'\n", ranks=2)
    assert sentence in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.returncode != 0 and "it went on" not in done.stdout


def with_metadata(model, path, **changes) -> None:
    """A copy of an exported model that says something else of itself."""
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("extra/metadata.json"):
                content = json.dumps(json.loads(content) | changes).encode()
            new.writestr(item, content)


def test_missing_file(lammps, models, tmp_path):
    fails(lammps, tmp_path, "nowhere.pt", "there is no model file nowhere.pt")


def test_not_a_model(lammps, tmp_path):
    (tmp_path / "model.pt").write_text("something else")
    fails(lammps, tmp_path, "model.pt", "model.pt is not an exported model, or is damaged")


def test_foreign_torchscript(lammps, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Identity()), str(tmp_path / "model.pt"))
    fails(lammps, tmp_path, "model.pt", "model.pt holds no metadata of uqforce")


@pytest.mark.parametrize(
    ("version", "sentence"), [(99, "is an exported model of format 99"), (1, "export it again")]
)
def test_format(lammps, models, tmp_path, version, sentence):
    with_metadata(models(), tmp_path / "model.pt", format_version=version)
    fails(lammps, tmp_path, "model.pt", sentence)


def test_networks_instead_of_tables(lammps, tmp_path):
    export(build(), tmp_path / "model.pt", tabulation=0)
    fails(lammps, tmp_path, "model.pt", "export it without `--tabulation 0`")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"H C O Si": "H C O Xx"}, "the model does not know Xx: it was made for H C O Si"),
        ({"H C O Si": "H C O"}, "an element for each of the 4 atom types"),
        ({"units metal": "units real"}, "computes in eV and A: use `units metal`, not real"),
        ({"units metal": "units metal\nnewton off"}, "use `newton on`"),
        (
            {"uqforce exchange": "uqforce somehow"},
            "does not know somehow: use exchange or shell, and every",
        ),
    ],
)
def test_input(lammps, models, tmp_path, changes, sentence):
    fails(lammps, tmp_path, models(), sentence, **changes)


def test_bonded_neighbors(lammps, models, tmp_path):
    """LAMMPS leaves bonded pairs out of the lists by default; the model would not see them."""
    text = f"""
        units metal
        atom_style bond
        region box block 0 9 0 9 0 9
        create_box 4 box bond/types 1
        create_atoms 1 single 1 1 1
        mass * 10
        pair_style uqforce
        pair_coeff * * {models()} {" ".join(TYPES)}
        run 0
        print "it went on"
    """
    done = lammps(tmp_path, text, ranks=2)
    assert "use `special_bonds lj/coul 1 1 1`" in done.stdout, done.stdout
    assert done.returncode != 0 and "it went on" not in done.stdout


@pytest.mark.parametrize("rank", [0, 1])
def test_not_finite(lammps, models, tmp_path, rank):
    """Two atoms in one place, on one of two ranks; the other waits for messages."""
    atoms = structures()["empty ranks"]
    atoms.positions[1] = atoms.positions[0]
    atoms.positions[:, 0] += 20.0 * rank
    sentence = "are not finite at step 0; the two closest atoms of its rank are 0.000 A apart"
    fails(lammps, tmp_path, models(), sentence, atoms)


def test_another_lammps(lammps, models, tmp_path):
    """The plugin says so itself: LAMMPS would only print a note."""
    folder, content = tmp_path / "uqforce_lammps", (PLUGIN_FOLDER / PLUGIN).read_bytes()
    old, new = (value.to_bytes(4, "little") for value in (20250722, 20250721))
    assert old in content
    folder.mkdir()
    (folder / PLUGIN).write_bytes(content.replace(old, new))
    (tmp_path / "uqforce").symlink_to(LIBRARY_PATH.parent)
    done = lammps(tmp_path, "units metal\npair_style uqforce\nprint 'it went on'", ranks=2, plugins=folder)
    assert "was built for LAMMPS version 20250721, this is 20250722" in done.stdout, done.stdout
    assert done.returncode != 0 and "it went on" not in done.stdout


def test_missing_op_library(lammps, tmp_path):
    shutil.copy(PLUGIN_FOLDER / PLUGIN, tmp_path)
    done = lammps(tmp_path, "units metal\npair_style uqforce\nprint 'it went on'", plugins=tmp_path)
    assert "libuqforce.so: cannot open shared object file" in done.stdout, done.stdout
    assert done.returncode != 0 and "it went on" not in done.stdout

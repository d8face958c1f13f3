"""Every failure ends all ranks with a sentence; the run never goes on."""

import contextlib
import os
import re
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from ase import Atoms

from tests.lammps.conftest import PLUGIN_FOLDER
from tests.lammps.systems import TYPES, begin, build, data_file, structures, with_metadata
from uqforce._library import LIBRARY_PATH, build_info
from uqforce.exporting.export import export
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
            "does not know somehow: use exchange or shell, chunk N, every N, and device",
        ),
        ({"uqforce exchange": "uqforce device cuda:x"}, "does not know device cuda:x: use"),
        ({"uqforce exchange": "uqforce chunk 100"}, "cannot exchange features: use `shell chunk 100`"),
        ({"uqforce exchange": "uqforce shell chunk 0"}, "chunk 0: use 1 or more atoms"),
    ],
)
def test_input(lammps, models, tmp_path, changes, sentence):
    fails(lammps, tmp_path, models(), sentence, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there(lammps, models, tmp_path, device):
    """No run on the CPU instead."""
    built = build_info()["cuda_archs"] is not None
    sentence = "libtorch sees 0 CUDA device(s) here" if built else "uqforce was built without CUDA kernels"
    changes = {"uqforce exchange": f"uqforce device {device}"}
    fails(lammps, tmp_path, models(), f"device {device} was asked for, but {sentence}", **changes)


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


def ranks_in(folder) -> list[int]:
    """Processes of `lmp` that run in the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").resolve() == folder and (process / "exe").resolve().name == "lmp":
                found.append(int(process.name))
    return found


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def test_a_rank_that_is_killed(lammps, models, tmp_path):
    """The others wait for its messages; mpirun ends them and says so."""
    atoms = structures()["molecule in vacuum"]
    (tmp_path / "0.data").write_text(data_file(atoms))
    text = begin(atoms, models(), "0.data") + "fix move all nve\nrun 10\nshell touch ready\nrun 10000000\n"

    def kill(process):
        wait_for((tmp_path / "ready").exists)
        both = ranks_in(tmp_path)
        assert len(both) == 2
        os.kill(both[1], signal.SIGKILL)

    done = lammps(tmp_path, text, ranks=2, meanwhile=kill)
    assert done.returncode != 0
    assert "BAD TERMINATION" in done.stdout and "Killed (signal 9)" in done.stdout, done.stdout[-2000:]
    wait_for(lambda: ranks_in(tmp_path) == [])


def test_out_of_memory(lammps, models, tmp_path):
    """Half a gigabyte more than a small system takes is not enough for a large one."""
    atoms, peak = structures()["triclinic silicon"], []
    (tmp_path / "0.data").write_text(data_file(atoms))
    text = begin(atoms, models(), "0.data")

    def measure(process):
        wait_for((tmp_path / "ready").exists)
        (rank,) = ranks_in(tmp_path)
        status = Path(f"/proc/{rank}/status").read_text()
        peak.append(int(re.search(r"VmPeak:\s+(\d+) kB", status)[1]))
        (tmp_path / "go").touch()

    wait = "shell while [ ! -e go ]; do sleep 0.1; done\n"
    assert lammps(tmp_path, text + f"run 0\nshell touch ready\n{wait}", meanwhile=measure).returncode == 0
    large = text + "replicate 12 12 12\nrun 0\nprint 'it went on'\n"
    done = lammps(tmp_path, large, before=f"ulimit -v {peak[0] + 512 * 1024}")
    assert "pair_style uqforce" in done.stdout and "out of memory" in done.stdout, done.stdout[-2000:]
    assert done.returncode != 0 and "it went on" not in done.stdout

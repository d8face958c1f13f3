"""Runs: the same on any number of ranks, ended by uncertainty, with frames that ASE reads."""

import importlib.metadata
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest

import uqforce_lammps
from tests.lammps.systems import TYPES, begin, data_file, structures

FINAL = "write_dump all custom final id x y z vx vy vz modify sort id format float %.17g\n"
NPT = "fix move all npt temp 300 300 0.05 iso 0 0 0.5\nfix even all balance 10 1.0 rcb\n"


def final_state(lammps, folder: Path, model: Path, name: str, ranks: int, text: str) -> np.ndarray:
    """Box, positions and velocities after the run of `text`."""
    atoms = structures()[name]
    (folder / "0.data").write_text(data_file(atoms))
    # A thin skin: neighbours are found anew, and atoms change ranks, during the run.
    setting = """neighbor 0.1 bin
        neigh_modify every 1 delay 0 check yes
        velocity all create 600 5 loop geom
        timestep 5e-4
    """
    done = lammps(folder, begin(atoms, model, "0.data") + setting + text + FINAL, ranks)
    assert done.returncode == 0, done.stdout[-2000:]
    assert int(re.search(r"Neighbor list builds = (\d+)", done.stdout)[1]) > 2
    box, table = ((folder / "final").read_text().splitlines()[a:b] for a, b in ((5, 8), (9, None)))
    return np.array(" ".join(box + table).split(), dtype=float)


@pytest.mark.parametrize(
    ("name", "ranks", "text"),
    [
        ("molecule in vacuum", 2, "fix move all nve\nrun 100\n"),
        ("triclinic silicon", 2, "fix move all nve\nrun 30\n"),
        pytest.param("triclinic silicon", 4, "fix move all nve\nrun 100\n", marks=pytest.mark.slow),
        pytest.param("triclinic silicon", 4, f"comm_style tiled\n{NPT}run 50\n", marks=pytest.mark.slow),
    ],
)
def test_same_on_all_ranks(lammps, models, tmp_path, name, ranks, text):
    one, many = (final_state(lammps, tmp_path, models(), name, count, text) for count in (1, ranks))
    np.testing.assert_allclose(many, one, rtol=0, atol=1e-8)


def hot_molecule(folder: Path, model: Path, text: str) -> str:
    atoms = structures()["molecule in vacuum"]
    (folder / "0.data").write_text(data_file(atoms))
    return f"""{begin(atoms, model, "0.data")}
        velocity all create 2000 1 loop geom
        timestep 5e-4
        fix move all nve
        fix nll all pair 5 uqforce nll 0
        compute u all pair uqforce
        variable worst equal c_u[1]
        thermo 5
        thermo_style custom step c_u[1]
        thermo_modify format float %.12g
        {text}
    """


def scores(output: str) -> dict[int, float]:
    """The largest nll of each step in the thermodynamic output."""
    return {int(step): float(score) for step, score in re.findall(r"^ +(\d+) +(-?[\d.e+]+) *$", output, re.M)}


def test_halt_and_dump(lammps, models, tmp_path):
    free = lammps(tmp_path, hot_molecule(tmp_path, models(), "run 100"))
    scored = scores(free.stdout)
    assert len(scored) == 21, free.stdout[-2000:]
    # Above the lower threshold frames are kept, above the higher one the run ends; neither is a score itself.
    known, limit = np.quantile(list(scored.values()), [0.87, 0.97]).tolist()
    end = min(step for step, score in scored.items() if score > limit)
    odd = [step for step, score in scored.items() if score > known and step <= end]
    assert 0 < end < 100 and 1 < len(odd) < 1 + end // 5
    done = lammps(
        tmp_path,
        hot_molecule(
            tmp_path,
            models(),
            f"""
            fix stop all halt 5 v_worst > {limit!r} error soft message yes
            variable dull equal v_worst<={known!r}
            dump odd all custom 5 odd.dump id element x y z f_nll
            dump_modify odd element {" ".join(TYPES)} sort id skip v_dull
            run 100
            print "after the halt"
            """,
        ),
        ranks=2,
    )
    assert f"met on step {end}" in done.stdout and "after the halt" in done.stdout, done.stdout[-2000:]
    frames = ase.io.read(tmp_path / "odd.dump", index=":", format="lammps-dump-text")
    assert len(frames) == len(odd)
    for step, frame in zip(odd, frames):
        assert frame.symbols.get_chemical_formula() == "C2H6O"
        np.testing.assert_allclose(frame.arrays["f_nll"].max(), scored[step], rtol=1e-5)


def test_uncertainties_in_every_nth_step(lammps, models, tmp_path):
    """Between these steps they are no numbers; the run is the same."""

    def run(style: str, text: str) -> dict[int, list[str]]:
        text = hot_molecule(tmp_path, models(), text).replace("fix nll all pair 5 uqforce nll 0", "")
        text = text.replace("pair_style uqforce exchange", f"pair_style uqforce {style}")
        out = lammps(tmp_path, text.replace("c_u[1]\n", "c_u[1] c_u[3] c_u[5] pe\n"), ranks=2).stdout
        return {int(step): row.split() for step, row in re.findall(r"^ +(\d+) +(\S.*\S) *$", out, re.M)}

    every = run("", "thermo 1\nrun 11")
    some = run("every 4", "thermo 1\nrun 11")
    assert len(every) == len(some) == 12
    for step, row in every.items():
        if step in (0, 4, 8, 11):  # the first and the last are printed in any case
            assert some[step] == row and "nan" not in row
        else:
            assert some[step] == ["nan", "nan", "nan", row[3]]
    asked = "fix asked all pair 3 uqforce nll 1\n"
    asked += "compute most all reduce max f_asked\nthermo 3\nthermo_style custom step c_most pe\n"
    asked += "thermo_modify format float %.12g\nrun 9"
    found = run("every 0", asked)
    assert [found[step][0] for step in (0, 3, 6, 9)] == [every[step][0] for step in (0, 3, 6, 9)]


def test_says_what_runs(lammps, models, tmp_path):
    out = lammps(tmp_path, hot_molecule(tmp_path, models("float32"), "run 0"), ranks=2).stdout
    for words in (
        r"uqforce [\d.]+: \S+model.pt \(H C O Si\), 3 layers, cutoff 3.5 A, float32, TorchScript\n",
        r"compute pair gives 1 largest and 2 mean nll, 3 largest and 4 mean forces_uncertainty, "
        r"5 energy_uncertainty, 6 largest and 7 mean energies_variance.*\n",
        r"  nll of the training atoms: max 20, q0.99 12.5\n",
        r"kernels \w+ on the cpu, 2 rank\(s\) of 1 thread\(s\), features exchanged between layers\n",
    ):
        assert len(re.findall(words, out)) == 1, out
    assert "they grow with its size, nll does not" in out
    text = hot_molecule(tmp_path, models("float32"), "run 0")
    text = text.replace("uqforce exchange", "uqforce shell chunk 4 device cpu")
    out = lammps(tmp_path, text).stdout
    assert "ghosts within 10.5 A with edges of their own, 4 atoms at a time\n" in out


def test_model_without_uncertainty(lammps, models, tmp_path):
    """What the model lacks cannot be had: nan, or an error of LAMMPS."""
    model = models(noise="none")
    done = lammps(tmp_path, hot_molecule(tmp_path, model, "run 0\nprint 'extra $(c_u[1]) $(c_u[3])'"))
    assert re.search(r"^extra -?[\d.]+ nan$", done.stdout, re.M), done.stdout[-2000:]
    done = lammps(
        tmp_path, hot_molecule(tmp_path, model, "fix s all pair 1 uqforce forces_uncertainty 0\nrun 0")
    )
    assert "cannot extract property forces_uncertainty" in done.stdout and done.returncode != 0


def test_found_by_lammps():
    """The entry point through which `lmp` finds the plugin without `plugin load`."""
    points = [p for p in importlib.metadata.entry_points(group="lammps.plugins") if p.name == "uqforce"]
    if not points:
        pytest.skip("uqforce is not installed in this environment, only built in place")
    assert points[0].load()() == uqforce_lammps.plugin_folder()

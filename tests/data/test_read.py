import gzip
import lzma
import re

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from uqforce.data import Keys, Units, frame_from_atoms, read_frames, type_names_of
from uqforce.data.units import ENERGY
from uqforce.errors import DataError

CUBE = 'Lattice="2 0 0 0 2 0 0 0 2" pbc="T T T"'


def xyz(
    comment: str = "energy=-1.5", rows: str = "O 0 0 0 0.1 0.2 0.3\nH 0 0 1 -0.1 -0.2 -0.3", forces="forces"
) -> str:
    """One frame of extended XYZ text."""
    return f"{rows.count(chr(10)) + 1}\nProperties=species:S:1:pos:R:3:{forces}:R:3 {comment}\n{rows}\n"


@pytest.fixture
def write(tmp_path):
    """`write(text)` puts text in a file and returns its path."""

    def write(text: str, name: str = "frames.xyz"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def refused(path, text: str, **arguments) -> None:
    """Reading fails with a message that matches `text` and names the file."""
    with pytest.raises(DataError, match=text) as caught:
        read_frames(path, **arguments)
    assert str(path) in str(caught.value)


# What is read


def test_extended_xyz(write):
    path = write(xyz("energy=-1.5 group=md") + xyz(f"energy=-2 {CUBE}"))
    molecule, crystal = read_frames(path)
    assert molecule.symbols == ["O", "H"] and molecule.group == "md" and molecule.energy == -1.5
    assert molecule.source == (str(path), 0) and crystal.source == (str(path), 1)
    assert np.array_equal(molecule.forces, [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
    assert not molecule.pbc.any() and not molecule.cell.any() and molecule.stress is None
    assert crystal.pbc.all() and np.array_equal(crystal.cell, 2 * np.eye(3)) and crystal.group is None
    assert type_names_of([molecule, crystal]) == ["H", "O"]


def test_box_around_a_molecule_is_dropped_and_a_slab_keeps_its_cell(write):
    molecule, slab = read_frames(
        write(xyz('energy=0 Lattice="9 0 0 0 9 0 0 0 9" pbc="F F F"') + xyz(f'energy=0 {CUBE[:-6]}T T F"'))
    )
    assert not molecule.cell.any()
    assert np.array_equal(slab.cell, 2 * np.eye(3)) and slab.pbc.tolist() == [True, True, False]


@pytest.mark.parametrize("opener", [("xz", lzma.open), ("gz", gzip.open)])
def test_compressed(tmp_path, opener):
    suffix, function = opener
    path = tmp_path / f"frames.extxyz.{suffix}"
    with function(path, "wt") as file:
        file.write(xyz() * 3)
    assert [frame.energy for frame in read_frames(path)] == [-1.5] * 3


def test_other_formats_of_ase(tmp_path):
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1]], cell=[4, 4, 4], pbc=True)
    stress = np.array([1.0, 2, 3, 4, 5, 6])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((2, 3)), stress=stress)
    path = tmp_path / "frames.traj"
    ase.io.write(path, [atoms, atoms])
    frames = read_frames(path)
    assert len(frames) == 2 and frames[1].energy == -1.0 and np.array_equal(frames[1].forces, np.ones((2, 3)))
    assert np.array_equal(frames[1].stress, [[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    assert np.array_equal(frame_from_atoms(atoms).stress, frames[1].stress)


def test_several_files_and_index(write):
    first = write("".join(xyz(f"energy={i}") for i in range(4)), "a.xyz")
    second = write("".join(xyz(f"energy={i}") for i in range(10, 12)), "b.xyz")

    def energies(index: str) -> list[float]:
        return [frame.energy for frame in read_frames([first, second], index=index)]

    assert energies(":") == [0, 1, 2, 3, 10, 11]
    assert energies("1") == [1, 11] and energies("-1") == [3, 11]
    assert (
        energies("::2") == [0, 2, 10] and energies("-2:") == [2, 3, 10, 11] and energies("1:3") == [1, 2, 11]
    )
    assert [frame.source[1] for frame in read_frames(first, index="-2:")] == [2, 3]
    with pytest.raises(DataError, match="index 'all' is neither"):
        read_frames(first, index="all")
    refused(first, "no frames in .* with index '7:'", index="7:")


def test_blank_lines_between_frames_lose_nothing(write):
    """ASE alone stops at the first of them."""
    assert len(read_frames(write(xyz() + "\n" + xyz() + "\n\n"))) == 2


# Keys


@pytest.mark.parametrize("prefix", ["", "REF_"])
def test_default_keys(write, prefix):
    stress = '"1 6 5 6 2 4 5 4 3"'
    text = xyz(f"{prefix}energy=-3 {prefix}stress={stress} {CUBE}", forces=f"{prefix}forces")
    (frame,) = read_frames(write(text), require=["energy", "forces", "stress"])
    assert frame.energy == -3 and frame.forces[0, 2] == 0.3
    assert np.array_equal(frame.stress, [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


def test_configured_keys(write):
    text = xyz("energy=-3 dft_energy=-4 config_type=bulk", forces="dft_forces")
    keys = Keys(energy="dft_energy", forces=("dft_forces",), group="config_type")
    (frame,) = read_frames(write(text), keys)
    assert frame.energy == -4 and frame.forces is not None and frame.group == "bulk"
    (frame,) = read_frames(write(text), Keys(energy=()))
    assert frame.energy is None


def test_two_keys_that_agree_or_differ(write):
    (frame,) = read_frames(write(xyz("energy=-3 REF_energy=-3.0000000001")))
    assert frame.energy == -3
    text = r"frame 1 .* both energy and REF_energy .* differ \(-3.0 and -4.0\).*Keys\(energy='REF_energy'\)"
    path = write(xyz("energy=-3 REF_energy=-3") + xyz("energy=-3 REF_energy=-4"))
    refused(path, text)
    assert read_frames(path, Keys(energy="REF_energy"))[1].energy == -4


@pytest.mark.parametrize("key", ["stress", "REF_stress"])
def test_stress_of_six_and_nine_numbers(write, key):
    voigt, full = (f'{key}="{numbers}" energy=0 {CUBE}' for numbers in ("1 2 3 4 5 6", "1 6 5 6 2 4 5 4 3"))
    six, nine = read_frames(write(xyz(voigt) + xyz(full)))
    assert np.array_equal(six.stress, [[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    assert np.array_equal(nine.stress, six.stress)


@pytest.mark.parametrize("key", ["virial", "virials", "REF_virial", "REF_virials"])
@pytest.mark.parametrize("numbers", ["8 16 24 32 40 48", "8 48 40 48 16 32 40 32 24"])
def test_virial_becomes_stress(write, key, numbers):
    (frame,) = read_frames(write(xyz(f'{key}="{numbers}" energy=0 {CUBE}')), units=Units("kcal/mol"))
    expected = -np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]]) * ENERGY["kcal/mol"]  # the volume is 8 A^3
    assert np.allclose(frame.stress, expected, rtol=1e-14)


def test_stress_and_virial_must_agree(write):
    stress = 'stress="1 0 0 0 2 0 0 0 3"'
    (frame,) = read_frames(write(xyz(f'{stress} virial="-8 0 0 0 -16 0 0 0 -24" {CUBE}')))
    assert np.array_equal(frame.stress, np.diag([1, 2, 3]))
    path = write(xyz(f'{stress} virial="8 0 0 0 16 0 0 0 24" {CUBE}'))
    refused(path, r"stress .* and -virial/volume .* differ: check their units and signs.*Keys\(stress=\(\)\)")
    assert read_frames(path, Keys(stress=()))[0].stress[2, 2] == pytest.approx(-3, rel=1e-14)


def test_stress_of_a_molecule_is_left_out_with_a_warning(write):
    path = write(xyz('stress="1 0 0 0 2 0 0 0 3"') * 2)
    with pytest.warns(UserWarning, match="stress of 2 frames without periodic directions is left out"):
        frames = read_frames(path)
    assert frames[0].stress is None


def test_units(write):
    path = write(xyz(f'energy=2 stress="1 0 0 0 2 0 0 0 3" {CUBE}'))
    (frame,) = read_frames(path, units=Units("Ha", "bohr", stress="GPa"))
    hartree, bohr = 27.211386246, 0.529177210903
    assert frame.energy == pytest.approx(2 * hartree, rel=1e-14)
    assert frame.positions[1, 2] == pytest.approx(bohr, rel=1e-14)
    assert frame.cell[0, 0] == pytest.approx(2 * bohr, rel=1e-14)
    assert frame.forces[0, 2] == pytest.approx(0.3 * hartree / bohr, rel=1e-14)
    assert frame.stress[2, 2] == pytest.approx(3 / 160.2176634, rel=1e-14)
    with pytest.raises(DataError, match="a stress was found and its unit is not known"):
        read_frames(path, units=Units("Ha", "bohr"))


# What is refused


def test_missing_labels_name_frames_count_keys_and_fix(write):
    path = write(xyz() + xyz("dft_energy=1") * 7)
    text = (
        r"7 of 8 frames have no energy: frame 1 of .*, \.\.\.\. Keys .*: dft_energy, forces\. .*Keys\(energy="
    )
    refused(path, text, require=["energy", "forces"])
    assert len(read_frames(path)) == 8
    refused(write("1\n\nH 0 0 0\n"), r"have no energy.* Keys present in them: none", require=["energy"])


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_not_finite(write, bad):
    good, H = xyz(), "H 0 0 1 -0.1 -0.2 -0.3"
    refused(
        write(good + xyz(rows=f"{H}\nO 0 {bad} 0 1 1 1")),
        rf"frame 1 of .*: positions of atom 1 are \[0.0, {bad}, 0.0\]",
    )
    refused(write(good + xyz(rows=f"{H}\nO 0 0 0 1 1 {bad}")), r"frame 1 of .*: forces of atom 1 are")
    refused(write(good + xyz(f"energy={bad}")), f"frame 1 of .*: energy is {bad}")
    refused(
        write(good + xyz(f'energy=1 {CUBE} stress="{bad} 0 0 0 0 0 0 0 0"')), r"frame 1 of .*: stress is \[\["
    )
    refused(write(good + xyz(f'energy=1 Lattice="{bad} 0 0 0 2 0 0 0 2"')), r"frame 1 of .*: cell is \[\[")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xyz('energy="1 2"'), r"frame 0 of .*: energy has shape \[2\], expected one number"),
        (xyz("energy=low"), "frame 0 of .*: energy is 'low', expected numbers"),
        (
            "1\nProperties=species:S:1:pos:R:3:forces:R:2 energy=1\nH 0 0 0 1 2\n",
            r"forces has shape \[1, 2\], expected \[1, 3\]",
        ),
        (xyz(f'REF_stress="1 2 3" {CUBE}'), r"REF_stress has shape \[3\], expected 3x3, 9 or 6 numbers"),
        (xyz(f'REF_stress="1 2 3 4 5 6 7 8 9" {CUBE}'), "is not symmetric: check the order"),
        (xyz(f'stress="1 2 3" {CUBE}'), "frame 0 is malformed .*stress, expecting special 3x3 matrix"),
        ("0\nenergy=1\n", "frame 0 of .* has no atoms: remove it"),
        (xyz('energy=1 pbc="T T T"'), r"no volume in its periodic directions \(pbc \[True, True, True\]\)"),
        (xyz('Lattice="1 0 0 0 1 0 1 1 0" energy=1'), "no volume in its periodic directions"),
        (xyz('Lattice="1 0 0 2 0 0 0 0 1" pbc="T T F" energy=1'), "no volume in its periodic directions"),
        (
            xyz('Lattice="2 0 0 0 0 0 0 0 0" pbc="T F F" virial="1 0 0 0 1 0 0 0 1"'),
            "has a stress or virial but its cell",
        ),
        (xyz(rows="Xx 0 0 0 1 1 1"), "frame 0 is malformed .*Xx"),
        (xyz(rows="X 0 0 0 1 1 1"), "atomic number 0 is no chemical element"),
        (xyz(rows="H 0 zero 0 1 1 1"), "frame 0 is malformed .*zero"),
        ("# a comment\n" + xyz(), "frame 0 should begin with its number of atoms, found '# a comment'"),
        (xyz() + "H 0 0 0 1 1 1\n", "frame 1 should begin with .* the frame before it may have more lines"),
        ("", "no frames in"),
    ],
)
def test_malformed(write, text, message):
    refused(write(text), message)


def test_truncated_text_names_file_and_frame(write):
    text = xyz() * 3
    start = 2 * len(xyz())
    refused(write(text[: start + 1]), "is truncated: frame 2 announces 2 atoms, 0 lines of atoms follow")
    refused(
        write(text[: text.rindex("H ")]), "is truncated: frame 2 announces 2 atoms, 1 lines of atoms follow"
    )
    refused(write(text[: text.rindex("-0.2")] + "\n"), "frame 2 is malformed or truncated")
    with pytest.warns(UserWarning, match="ends without a newline: .* the last number of frame 2 is wrong"):
        assert read_frames(write(text[:-2]))[2].forces[1, 2] == 0  # -0.3, cut to -0.


def test_truncated_compressed_file(tmp_path):
    path = tmp_path / "frames.xyz.xz"
    rows = "\n".join(
        "H " + " ".join(map(str, row)) for row in np.random.RandomState(0).normal(size=(5000, 6))
    )
    path.write_bytes(lzma.compress(xyz(rows=rows).encode())[:-5000])
    refused(path, "cannot be read after 0 frames, it may be truncated")
    path.write_bytes(b"not compressed")
    refused(path, "cannot be read after 0 frames")


def test_files_that_are_not_what_they_seem(tmp_path, write):
    refused(tmp_path / "absent.xyz", "does not exist")
    refused(write("nonsense", "frames.traj"), "ASE cannot read frame 0")
    refused(write("nonsense", "frames.npz"), "cannot be read")


# .npz


@pytest.fixture
def arrays():
    """Three frames of two atoms as rMD17 names them."""
    random = np.random.RandomState(0)
    return {
        "nuclear_charges": np.array([8, 1], dtype=np.uint8),
        "coords": random.normal(size=(3, 2, 3)),
        "energies": random.normal(size=3),
        "forces": random.normal(size=(3, 2, 3)),
    }


def test_npz_layout_of_rmd17(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    frames = read_frames(tmp_path / "a.npz", units=Units("kcal/mol"), require=["energy", "forces"])
    assert len(frames) == 3 and frames[2].symbols == ["O", "H"] and not frames[2].pbc.any()
    assert frames[2].energy == pytest.approx(arrays["energies"][2] * 0.0433641042, rel=1e-14)
    assert np.array_equal(frames[1].positions, arrays["coords"][1])
    assert np.allclose(frames[1].forces, arrays["forces"][1] * 0.0433641042, rtol=1e-14)
    assert [frame.source[1] for frame in read_frames(tmp_path / "a.npz", index="1:")] == [1, 2]


def test_npz_layout_of_deepmd(tmp_path, arrays):
    box = np.stack([np.eye(3).ravel() * (4 + i) for i in range(3)])
    np.savez(
        tmp_path / "a.npz",
        atomic_numbers=np.tile(arrays["nuclear_charges"], (3, 1)),
        coord=arrays["coords"].reshape(3, 6).astype(np.float32),
        energy=arrays["energies"][:, None],
        force=arrays["forces"].reshape(3, 6),
        box=box,
        virial=np.tile(np.eye(3).ravel(), (3, 1)),
        group=np.array(["a", "a", "b"]),
    )
    frames = read_frames(tmp_path / "a.npz", require=["energy", "forces", "stress"])
    assert frames[1].pbc.all() and np.array_equal(frames[1].cell, 5 * np.eye(3)) and frames[2].group == "b"
    assert frames[1].energy == arrays["energies"][1] and np.array_equal(frames[1].forces, arrays["forces"][1])
    assert np.allclose(frames[1].stress, -np.eye(3) / 125, rtol=1e-14)
    assert frames[1].positions.dtype == np.float64


def test_npz_errors(tmp_path, arrays):
    path = tmp_path / "a.npz"

    def refuse(text: str, remove: str = "", **changes: np.ndarray) -> None:
        np.savez(path, **{key: value for key, value in {**arrays, **changes}.items() if key != remove})
        refused(path, text, require=["energy"])

    refuse(
        r"has no positions \(or coords, coord, R\); its arrays are: nuclear_charges, energies, forces",
        "coords",
    )
    refuse("has no atomic_numbers", "nuclear_charges")
    refuse("3 of 3 frames have no energy.*Keys present in them: forces", "energies")
    refuse(r"energy has shape \[2\] for 3 frames", energies=np.zeros(2))
    refuse(r"frame 0 of .*: positions has shape \[4, 3\], expected \[2, 3\]", coords=np.zeros((3, 4, 3)))
    refuse("Object arrays cannot be loaded", energies=np.array([None, 1, 2], dtype=object))


# Real data


def test_3bpa(data_dir):
    frames = read_frames(data_dir / "3bpa" / "train_300K.xyz.xz", require=["energy", "forces"])
    assert len(frames) == 500
    assert all(sorted(set(frame.symbols)) == ["C", "H", "N", "O"] and len(frame) == 27 for frame in frames)
    assert frames[0].energy == -17660.461737861464 and frames[0].forces[1, 2] == -1.90941638
    rms = np.sqrt(np.mean([frame.forces**2 for frame in frames]))
    assert rms == pytest.approx(0.9480, abs=5e-5)  # the number that comes with the data


def test_mlearn_stress_and_groups(data_dir):
    frames = read_frames(
        data_dir / "mlearn_elements" / "Li_training.xyz.xz", require=["energy", "forces", "stress"]
    )
    assert len(frames) == 241 and all(frame.pbc.all() for frame in frames)
    assert {frame.group for frame in frames} == {"AIMD-NVT", "Elastic", "Surface", "Vacancy"}
    assert np.array_equal(frames[0].stress[0], [-0.0012658078, 0.0000325270, -0.0003805295])
    assert all(np.array_equal(frame.stress, frame.stress.T) for frame in frames)


def test_water_and_energy_only_scans(data_dir):
    water = read_frames(data_dir / "water192_deepmd" / "water192.npz", Keys(group="part"), index="::80")
    assert len(water) == 5 and len(water[0]) == 192 and water[0].pbc.all()
    assert np.allclose(water[0].cell, 12.444661 * np.eye(3)) and len({frame.group for frame in water}) > 1
    scan = read_frames(data_dir / "ethanol_ood" / "test_H_removal.xyz.xz", require=["energy"])
    assert len(scan) == 60 and all(frame.forces is None for frame in scan)
    with pytest.raises(DataError, match=re.escape("60 of 60 frames have no forces")):
        read_frames(data_dir / "ethanol_ood" / "test_H_removal.xyz.xz", require=["forces"])

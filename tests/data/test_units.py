import numpy as np
import pytest
from ase import units as ase_units

from uqforce.data import Units
from uqforce.data.units import ENERGY, LENGTH, STRESS
from uqforce.errors import DataError


def test_factors_agree_with_ase():
    reference = {
        "eV": 1.0,
        "meV": 1e-3,
        "Ha": ase_units.Hartree,
        "Ry": ase_units.Rydberg,
        "kcal/mol": ase_units.kcal / ase_units.mol,
        "kJ/mol": ase_units.kJ / ase_units.mol,
    }
    assert set(ENERGY) == set(reference)
    for name, value in reference.items():
        assert ENERGY[name] == pytest.approx(value, rel=3e-8)
    lengths = {"A": 1.0, "nm": 10.0, "bohr": ase_units.Bohr}
    assert pytest.approx(lengths, rel=3e-8) == LENGTH
    pressure = {"GPa": ase_units.GPa, "kbar": 0.1 * ase_units.GPa, "eV/A^3": 1.0}
    pressure["Ha/bohr^3"] = ase_units.Hartree / ase_units.Bohr**3
    assert pytest.approx(pressure, rel=1e-7) == STRESS


def test_forces_follow_energy_and_length_unless_named():
    assert Units("Ha", "bohr").forces_factor == pytest.approx(51.422067, rel=1e-7)
    assert Units("Ha", "A", forces="Ha/bohr").forces_factor == Units("Ha", "bohr").forces_factor
    assert Units("kcal/mol", forces="kcal/mol/A").forces_factor == Units("kcal/mol").forces_factor
    assert Units().forces_factor == Units().stress_factor == 1.0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"energy": "kcal"}, "unknown energy unit 'kcal': known are eV, meV, Ha"),
        ({"length": "angstrom"}, "unknown length unit 'angstrom': known are A"),
        ({"forces": "Ha"}, "unknown forces unit 'Ha': write <energy>/<length>"),
        ({"forces": "Ha/furlong"}, "unknown forces unit 'Ha/furlong'"),
        ({"stress": "bar"}, "unknown stress unit 'bar': known are eV/A"),
    ],
)
def test_unknown_units_are_refused(arguments, text):
    with pytest.raises(DataError, match=text):
        Units(**arguments)


def test_stress_unit_must_be_named_with_foreign_units():
    with pytest.raises(DataError, match=r"set Units\(stress=\.\.\.\)"):
        _ = Units("kcal/mol").stress_factor
    assert np.isclose(Units("kcal/mol", stress="GPa").stress_factor, 0.0062415091)

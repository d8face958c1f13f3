"""Units of the files that are read; inside the package lengths are A and energies eV."""

from dataclasses import dataclass

from uqforce.errors import DataError

# eV and A. Ha and bohr are CODATA 2018, the stresses follow from 1 eV = 1.602176634e-19 J (exact since 2019),
# kcal/mol is the value that came with the reference data.
_HARTREE = 27.211386246
_BOHR = 0.529177210903
_KCAL = 0.0433641042
ENERGY = {
    "eV": 1.0,
    "meV": 1e-3,
    "Ha": _HARTREE,
    "Ry": _HARTREE / 2,
    "kcal/mol": _KCAL,
    "kJ/mol": _KCAL / 4.184,
}
LENGTH = {"A": 1.0, "nm": 10.0, "bohr": _BOHR}
STRESS = {"eV/A^3": 1.0, "GPa": 1 / 160.2176634, "kbar": 1 / 1602.176634, "Ha/bohr^3": _HARTREE / _BOHR**3}


@dataclass(frozen=True)
class Units:
    """Says in which units a file states its numbers.

    energy (also of `virial`): eV, meV, Ha, Ry, kcal/mol or kJ/mol. length (positions, cell): A, nm or bohr.
    forces: "<energy>/<length>", by default the two above; programs that print A often give forces in Ha/bohr.
    stress: eV/A^3, GPa, kbar or Ha/bohr^3. The default is eV/A^3 where energies are eV and lengths A; with
    other units a stress in the file is an error until its unit is named.

    Raises `DataError` for a unit that is not listed.

    Example:
        >>> import uqforce
        >>> uqforce.Units(energy="Ha", length="A", forces="Ha/bohr").forces_factor
        51.422067476348566
    """

    energy: str = "eV"
    length: str = "A"
    forces: str | None = None
    stress: str | None = None

    def __post_init__(self) -> None:
        _factor("energy", self.energy, ENERGY)
        _factor("length", self.length, LENGTH)
        _ = self.forces_factor
        if self.stress is not None:
            _factor("stress", self.stress, STRESS)

    @property
    def energy_factor(self) -> float:
        """eV per unit of energy."""
        return ENERGY[self.energy]

    @property
    def length_factor(self) -> float:
        """A per unit of length."""
        return LENGTH[self.length]

    @property
    def forces_factor(self) -> float:
        """eV/A per unit of force."""
        if self.forces is None:
            return self.energy_factor / self.length_factor
        energy, _, length = self.forces.rpartition("/")
        if energy not in ENERGY or length not in LENGTH:
            raise DataError(
                f"unknown forces unit {self.forces!r}: write <energy>/<length>, as in 'Ha/bohr', with energy "
                f"one of {', '.join(ENERGY)} and length one of {', '.join(LENGTH)}"
            )
        return ENERGY[energy] / LENGTH[length]

    @property
    def stress_factor(self) -> float:
        """eV/A^3 per unit of stress."""
        if self.stress is None and (self.energy, self.length) != ("eV", "A"):
            raise DataError(
                f"a stress was found and its unit is not known (energies are in {self.energy}, lengths in "
                f"{self.length}): set Units(stress=...) to one of {', '.join(STRESS)}, or Keys(stress=())"
            )
        return STRESS[self.stress or "eV/A^3"]


def _factor(kind: str, unit: str, table: dict[str, float]) -> float:
    if unit not in table:
        raise DataError(f"unknown {kind} unit {unit!r}: known are {', '.join(table)}")
    return table[unit]

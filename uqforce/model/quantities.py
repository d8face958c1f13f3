"""Every quantity that a model gives: the one list of their names, units, axes, kinds and calibrations.

Inside a model the results are a dictionary that holds only what there is. `Prediction` is what Python users
see of it, and its fields are the list: whatever else needs to know the quantities (calibration, exported
files, calculators, evaluation, what dynamics watch) reads `QUANTITIES`, which is made of them, and a test
holds what cannot read it (the LAMMPS plugin, the docs) against it.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple, get_type_hints

from torch import Tensor


class Quantity(NamedTuple):
    """What is known of a quantity beside its value.

    Attributes:
        unit: of its numbers; squares of eV and A where it is a variance.
        axis: what stands along its first axis: "atom", "structure", "edge", or "member" where the second axis
            is that of the atoms or of the structures.
        kind: "value" (what a model without uncertainties gives), "feature", "score" (it ranks atoms or
            structures, it is no error), "std", "variance", "covariance" or "member" (one value per member).
        calibration: the factor by which a calibration multiplies it, one of those that
            `Calibration.factors` makes; "" where it is left as it is.
        watch: in words, of a number of every atom that dynamics can watch; "" of all others.
    """

    unit: str
    axis: str
    kind: str
    calibration: str = ""
    watch: str = ""


_ENERGY_STD = Quantity("eV", "structure", "std", "energy")
_FORCES_STD = Quantity("eV/A", "atom", "std", "forces")
_FORCES_COVARIANCE = Quantity("eV^2/A^2", "atom", "covariance", "forces^2")
_VIRIAL_COVARIANCE = Quantity("eV^2", "structure", "covariance", "virial^2")


@dataclass(frozen=True)
class Prediction:
    """What a potential says of a batch of structures; None where the model does not carry the quantity.

    Shapes: N atoms, B structures, E edges, D features, M members. eV and A; float64 except the features.
    `*_aleatoric` is the noise of the data, `*_epistemic` the disagreement of members, and the name alone both
    together. Virial covariances are in ASE's Voigt order, xx yy zz yz xz xy.
    """

    energies: Annotated[Tensor, Quantity("eV", "atom", "value")]  # [N]
    energy: Annotated[Tensor, Quantity("eV", "structure", "value")]  # [B]
    forces: Annotated[Tensor, Quantity("eV/A", "atom", "value")]  # [N,3]
    virial: Annotated[Tensor, Quantity("eV", "structure", "value")]  # [B,3,3]; stress = -virial / volume
    edge_gradient: Annotated[Tensor, Quantity("eV/A", "edge", "value")]  # [E,3], d(energy) / d(edge_vec)
    features: Annotated[Tensor, Quantity("1", "atom", "feature")]  # [N,D]
    # [N], the mixture's score
    nll: Annotated[Tensor | None, Quantity("nat", "atom", "score", watch="mixture score of the atom")] = None
    # [N], sums to the square of energy_uncertainty_aleatoric
    energies_variance: Annotated[Tensor | None, Quantity("eV^2", "atom", "variance", "shares")] = None
    # [B]
    energy_uncertainty: Annotated[Tensor | None, _ENERGY_STD] = None
    energy_uncertainty_aleatoric: Annotated[Tensor | None, _ENERGY_STD] = None
    energy_uncertainty_epistemic: Annotated[Tensor | None, _ENERGY_STD] = None
    # [N], sqrt(trace of the covariance / 3)
    forces_uncertainty: Annotated[
        Tensor | None, _FORCES_STD._replace(watch="predicted uncertainty of the atom's force")
    ] = None
    forces_uncertainty_aleatoric: Annotated[Tensor | None, _FORCES_STD] = None
    forces_uncertainty_epistemic: Annotated[Tensor | None, _FORCES_STD] = None
    # [N,3,3]
    forces_covariance: Annotated[Tensor | None, _FORCES_COVARIANCE] = None
    forces_covariance_aleatoric: Annotated[Tensor | None, _FORCES_COVARIANCE] = None
    forces_covariance_epistemic: Annotated[Tensor | None, _FORCES_COVARIANCE] = None
    # [N,3], of an atom's force with its structure's energy
    energy_forces_covariance: Annotated[
        Tensor | None, Quantity("eV^2/A", "atom", "covariance", "energy forces")
    ] = None
    # [B,6,6]; of the stress: divided by the square of the volume
    virial_covariance: Annotated[Tensor | None, _VIRIAL_COVARIANCE] = None
    virial_covariance_aleatoric: Annotated[Tensor | None, _VIRIAL_COVARIANCE] = None
    virial_covariance_epistemic: Annotated[Tensor | None, _VIRIAL_COVARIANCE] = None
    energy_ensemble: Annotated[Tensor | None, Quantity("eV", "member", "member")] = None  # [M,B]
    forces_ensemble: Annotated[Tensor | None, Quantity("eV/A", "member", "member")] = None  # [M,N,3]
    virial_ensemble: Annotated[Tensor | None, Quantity("eV", "member", "member")] = None  # [M,B,3,3]
    # [N] and [B], last-layer rigidity of an atom's and of a structure's energy
    llpr: Annotated[Tensor | None, Quantity("eV", "atom", "score", watch="llpr of the atom's energy")] = None
    energy_llpr: Annotated[Tensor | None, Quantity("eV", "structure", "score")] = None
    # [N], error of the atom's force expected from a score, rms of a component
    forces_error: Annotated[
        Tensor | None, Quantity("eV/A", "atom", "std", watch="expected error of the atom's force")
    ] = None

    def as_dict(self) -> dict[str, Tensor]:
        """What there is, by name, in the order of the list."""
        return {name: value for name in QUANTITIES if (value := getattr(self, name)) is not None}


QUANTITIES: dict[str, Quantity] = {
    name: kind.__metadata__[0] for name, kind in get_type_hints(Prediction, include_extras=True).items()
}


def named(kind: str, axis: str) -> tuple[str, ...]:
    """Names of the quantities of a kind and axis."""
    return tuple(name for name, entry in QUANTITIES.items() if (entry.kind, entry.axis) == (kind, axis))


def unit_in_name(unit: str) -> str:
    """A unit as it stands at the end of a column's name, "_eV_per_A"; nothing of what has none."""
    return "" if unit in ("nat", "1") else "_" + unit.replace("/", "_per_").replace("^", "")

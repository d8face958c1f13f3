"""Calibration: from what a model says of its uncertainty to the errors that were seen with it."""

import torch
from torch import Tensor, nn

from uqforce.errors import ModelError
from uqforce.model.prediction import DomainPrediction, Prediction, sum_by_structure

MAPS = ("energy", "forces", "error", "origin")


class Calibration(nn.Module):
    """Monotone maps of standard deviations, and of a score to the force error expected with it.

    Each map is a buffer [2,K] of float64, ascending knots and their values, linear between the knots; beyond
    them value / knot is that of the nearest, so that uncertainties keep growing far from the data that the
    calibration was fitted to. One knot is a factor. A map that was not fitted is None, and not in the state.

    * `energy`: of a structure's standard deviation over the square root of its number of atoms, eV.
    * `forces`: of `forces_uncertainty`, eV/A.
    * `error`: to `forces_error`, eV/A, of sqrt(nll - `origin`); of `llpr` where there is no `origin`.

    Covariances are multiplied by squared ratios of calibrated and raw standard deviations, aleatoric and
    epistemic parts by the same, so that they still add up; that of energy and forces by the product of both
    ratios (their correlation stays), those of virials, made of forces, by the structure's mean square ratio
    of the forces. Members (`*_ensemble`) are left as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in MAPS:
            self.register_buffer(name, None)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """The state decides which maps there are."""
        found = {name: state_dict[prefix + name] for name in MAPS if prefix + name in state_dict}
        self.store(**found)

    @torch.jit.unused
    def store(self, **maps: Tensor) -> None:
        """Keep these maps, [2,K], and `origin`, []; those not given are forgotten.

        Raises:
            ModelError: an unknown name or shape, knots or values that do not ascend or are not positive.
        """
        unknown = set(maps) - set(MAPS)
        if unknown:
            raise ModelError(f"no such map: {', '.join(sorted(unknown))}")
        for name, value in maps.items():
            value = value.detach().to(dtype=torch.float64, copy=True)
            if name == "origin":
                good = value.ndim == 0 and bool(value.isfinite())
            else:
                good = value.ndim == 2 and value.shape[0] == 2 and value.shape[1] > 0
                good = good and bool((value > 0).all() and value.isfinite().all())
                good = good and bool((value[0].diff() > 0).all() and (value[1].diff() >= 0).all())
            if not good:
                raise ModelError(f"calibration map {name} must be positive and ascending [2,K], got {value}")
            maps[name] = value
        for name in MAPS:
            setattr(self, name, maps.get(name))

    def energy_ratio(self, std: Tensor, atoms: Tensor) -> Tensor:
        """Calibrated over raw standard deviation of structures' energies; std [B] eV, atoms [B] -> [B]."""
        if self.energy is None:
            return torch.ones_like(std)
        return ratio(self.energy, std / torch.sqrt(atoms.to(std.dtype)))

    def forces_ratio(self, std: Tensor) -> Tensor:
        """Calibrated over raw standard deviation of atoms' forces; std [N] eV/A -> [N]."""
        if self.forces is None:
            return torch.ones_like(std)
        return ratio(self.forces, std)

    def forces_error(self, nll: Tensor, llpr: Tensor) -> Tensor:
        """Scores [N] -> expected force errors [N] eV/A, rms of a component; no elements where not fitted."""
        if self.error is None:
            return nll.new_zeros(0)
        distance = llpr
        if self.origin is not None:
            # no score can be less uncertain than the least that was seen
            distance = torch.sqrt(torch.maximum(nll - self.origin, self.error[0, 0].square()))
        return distance * ratio(self.error, distance)

    def forward(
        self, p: Prediction, rigidity: tuple[Tensor, Tensor], batch: Tensor, num_structures: int
    ) -> Prediction:
        """The prediction of structures with calibrated uncertainties, and with these rigidities [N], [B]."""
        llpr, energy_llpr = rigidity
        error = self.forces_error(p.nll, llpr)
        energy, forces = torch.ones_like(p.energy_uncertainty), torch.ones_like(p.forces_uncertainty)
        if p.energy_uncertainty.numel() > 0:
            # not bincount(): on CUDA the host would wait for the largest number in `batch`
            atoms = sum_by_structure(torch.ones_like(batch), batch, num_structures)
            energy = self.energy_ratio(p.energy_uncertainty, atoms)
        virial = torch.ones(num_structures, dtype=forces.dtype, device=forces.device)
        if forces.numel() > 0:
            forces = self.forces_ratio(p.forces_uncertainty)
            raw = p.forces_uncertainty.square()
            squares = sum_by_structure(raw * forces.square(), batch, num_structures)
            squares = squares / sum_by_structure(raw, batch, num_structures)
            virial = torch.where(squares.isfinite(), squares, virial)  # of a structure without atoms: 1
        virial = virial.view(-1, 1, 1)
        block = forces.square().view(-1, 1, 1)
        cross, shares = p.energy_forces_covariance, p.energies_variance
        if cross.numel() > 0:
            cross = cross * (energy[batch] * forces).unsqueeze(1)
        if shares.numel() > 0:
            shares = shares * energy[batch].square()
        return Prediction(
            energies=p.energies,
            energy=p.energy,
            forces=p.forces,
            virial=p.virial,
            edge_gradient=p.edge_gradient,
            features=p.features,
            nll=p.nll,
            energies_variance=shares,
            energy_uncertainty=p.energy_uncertainty * energy,
            energy_uncertainty_aleatoric=scaled(p.energy_uncertainty_aleatoric, energy),
            energy_uncertainty_epistemic=scaled(p.energy_uncertainty_epistemic, energy),
            forces_uncertainty=p.forces_uncertainty * forces,
            forces_uncertainty_aleatoric=scaled(p.forces_uncertainty_aleatoric, forces),
            forces_uncertainty_epistemic=scaled(p.forces_uncertainty_epistemic, forces),
            forces_covariance=scaled(p.forces_covariance, block),
            forces_covariance_aleatoric=scaled(p.forces_covariance_aleatoric, block),
            forces_covariance_epistemic=scaled(p.forces_covariance_epistemic, block),
            energy_forces_covariance=cross,
            virial_covariance=scaled(p.virial_covariance, virial),
            virial_covariance_aleatoric=scaled(p.virial_covariance_aleatoric, virial),
            virial_covariance_epistemic=scaled(p.virial_covariance_epistemic, virial),
            energy_ensemble=p.energy_ensemble,
            forces_ensemble=p.forces_ensemble,
            virial_ensemble=p.virial_ensemble,
            llpr=llpr,
            energy_llpr=energy_llpr,
            forces_error=error,
        )

    def of_domain(self, p: DomainPrediction, rigidity: tuple[Tensor, Tensor]) -> DomainPrediction:
        """The same for one process's share of a structure; the atoms of all processes are counted."""
        energy, forces = torch.ones_like(p.energy_uncertainty), self.forces_ratio(p.forces_uncertainty)
        if self.energy is not None and energy.numel() > 0:
            own = torch.full_like(energy, float(p.energies.shape[0]))
            energy = self.energy_ratio(p.energy_uncertainty, torch.ops.uqforce.sum_over_ranks(own))
        return DomainPrediction(
            energies=p.energies,
            edge_gradient=p.edge_gradient,
            features=p.features,
            nll=p.nll,
            energies_variance=scaled(p.energies_variance, energy.square()),
            energy_uncertainty=p.energy_uncertainty * energy,
            energy_uncertainty_aleatoric=scaled(p.energy_uncertainty_aleatoric, energy),
            energy_uncertainty_epistemic=scaled(p.energy_uncertainty_epistemic, energy),
            forces_uncertainty=p.forces_uncertainty * forces,
            forces_uncertainty_aleatoric=scaled(p.forces_uncertainty_aleatoric, forces),
            forces_uncertainty_epistemic=scaled(p.forces_uncertainty_epistemic, forces),
            llpr=rigidity[0],
            forces_error=self.forces_error(p.nll, rigidity[0]),
        )


def ratio(knots: Tensor, x: Tensor) -> Tensor:
    """value / x of the map [2,K] at x > 0, which also has a value at x = 0: that towards the first knot."""
    first, last = knots[0, 0], knots[0, -1]
    inside = torch.minimum(torch.maximum(x, first), last)
    high = torch.searchsorted(knots[0], inside).clamp(min=1).clamp(max=max(knots.shape[1] - 1, 0))
    low = (high - 1).clamp(min=0)
    left, right = knots[0][low], knots[0][high]
    below, above = knots[1][low], knots[1][high]
    width = right - left
    share = torch.where(width > 0, (inside - left) / width, torch.zeros_like(width))
    return (below + share * (above - below)) / inside


def scaled(values: Tensor, factor: Tensor) -> Tensor:
    """values * factor; values without elements as they are."""
    return values * factor if values.numel() > 0 else values

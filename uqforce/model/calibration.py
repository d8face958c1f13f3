"""Calibration: from what a model says of its uncertainty to the errors that were seen with it."""

from typing import Dict

import torch
from torch import Tensor, nn

from uqforce.errors import ModelError
from uqforce.model.graph import Graph, sum_over_processes
from uqforce.model.prediction import sum_by_structure
from uqforce.model.quantities import QUANTITIES

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

    calibrated: Dict[str, str]  # quantity -> its factor

    def __init__(self) -> None:
        super().__init__()
        for name in MAPS:
            self.register_buffer(name, None)
        self.calibrated = {name: entry.calibration for name, entry in QUANTITIES.items() if entry.calibration}

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

    def forces_error(self, out: Dict[str, Tensor]) -> None:
        """Adds `forces_error` [N] eV/A, the rms of a component that is expected with the atoms' scores."""
        if self.error is not None:
            score = "llpr" if self.origin is None else "nll"
            if score in out:
                distance = out[score]
                if self.origin is not None:
                    # no score can be less uncertain than the least that was seen
                    distance = torch.sqrt(torch.maximum(distance - self.origin, self.error[0, 0].square()))
                out["forces_error"] = distance * ratio(self.error, distance)

    def factors(self, out: Dict[str, Tensor], graph: Graph) -> Dict[str, Tensor]:
        """Calibrated over raw standard deviation, and what follows of it, by the quantities' `calibration`.

        Those of energies [B] and of forces [N], from which the other ones are made; none where there is no
        map, or nothing that it maps.
        """
        factors: Dict[str, Tensor] = {}
        batch, num_structures = graph.batch, graph.num_structures
        if self.energy is not None and "energy_uncertainty" in out:
            std = out["energy_uncertainty"]
            if graph.parallel:
                atoms = torch.full_like(std, float(batch.shape[0]))
            else:
                # not bincount(): on CUDA the host would wait for the largest number in `batch`
                atoms = sum_by_structure(torch.ones_like(batch, dtype=std.dtype), batch, num_structures)
            energy = ratio(self.energy, std / torch.sqrt(sum_over_processes(atoms, graph)))
            factors["energy"] = energy
            factors["shares"] = energy[batch].square()
            factors["energy forces"] = energy[batch]
        if self.forces is not None and "forces_uncertainty" in out:
            std = out["forces_uncertainty"]
            forces = ratio(self.forces, std)
            factors["forces"], factors["forces^2"] = forces, forces.square()
            factors["energy forces"] = (
                factors["energy forces"] * forces if "energy forces" in factors else forces
            )
            if not graph.parallel:
                variance = std.square()
                virial = sum_by_structure(variance * forces.square(), batch, num_structures)
                virial = virial / sum_by_structure(variance, batch, num_structures)
                # of a structure without atoms: 1
                factors["virial^2"] = torch.where(virial.isfinite(), virial, torch.ones_like(virial))
        return factors

    def forward(self, out: Dict[str, Tensor], graph: Graph) -> Dict[str, Tensor]:
        """The results with calibrated uncertainties, and with `forces_error`; `out`, raw, is not changed."""
        out = out.copy()
        self.forces_error(out)
        factors = self.factors(out, graph)
        for name, kind in self.calibrated.items():
            if name in out and kind in factors:
                factor = factors[kind].view([-1] + [1] * (out[name].dim() - 1))
                out[name] = out[name] * factor
        return out


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

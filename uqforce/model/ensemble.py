"""Independent potentials evaluated as one."""

import copy
from collections.abc import Sequence
from typing import List, Optional  # noqa: UP035  (TorchScript)

import torch
from torch import Tensor, nn

from uqforce.model.calibration import Calibration
from uqforce.model.config import ModelConfig
from uqforce.model.inference import InferencePotential
from uqforce.model.potential import Potential
from uqforce.model.prediction import (
    DomainPrediction,
    Evaluation,
    Prediction,
    by_positions,
    derived,
    joined,
    of_domain,
)

SHARED = ("type_names", "r_max", "per_edge_type_cutoff", "dtype", "noise")
"""Fields of the configuration in which members agree: they see the same edges, and their noise adds up."""


class Ensemble(nn.Module):
    """Independent potentials as one: the members' means, and what they disagree in as epistemic uncertainty.

    The arguments and results are a potential's; members share the edges, and their derivatives are combined
    at once. What is one member's alone, `features`, `nll` and its gradient, is the first one's. It is for
    evaluation: members are trained one by one.

    Args:
        members: at least two. They may differ in everything but `SHARED`.
        ddof: 0 gives the moments of the mixture of the members' distributions, 1 the unbiased covariance of
            samples, as those of a posterior.

    Attributes:
        config: the first member's.
        card: what is known of the ensemble; plain JSON values. The members keep theirs.

    Raises:
        ValueError: one member, or members that do not belong together; the message names the field.

    Source: Lakshminarayanan, Pritzel, Blundell, arXiv:1612.01474.
    """

    def __init__(self, members: Sequence[Potential], ddof: int = 0) -> None:
        super().__init__()
        if len(members) < 2 or ddof not in (0, 1):
            raise ValueError(
                f"an ensemble of {len(members)} with ddof {ddof}: give at least two members, and ddof 0 or 1"
            )
        for field in SHARED:
            values = [getattr(member.config, field) for member in members]
            if any(value != values[0] for value in values):
                raise ValueError(
                    f"members differ in {field}, {values}: they must agree in {', '.join(SHARED)}"
                )
        self.members = nn.ModuleList(members)
        self.calibration = Calibration()
        self.ddof = ddof
        self.config: ModelConfig = members[0].config
        first = members[0].card
        self.card: dict = {key: first[key] for key in ("units", "mixture", "thresholds") if key in first}
        self.card["ensemble"] = {"kind": "independent", "members": len(members), "ddof": ddof}
        self.eval()

    def forward(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int
    ) -> Prediction:
        """Evaluate a batch; see `Potential.forward`."""
        return self.with_nll_gradient(edge_vec, edge_index, atom_types, batch, num_structures, "")[0]

    def with_nll_gradient(
        self,
        edge_vec: Tensor,
        edge_index: Tensor,
        atom_types: Tensor,
        batch: Tensor,
        num_structures: int,
        reduction: str,
    ) -> tuple[Prediction, Tensor]:
        """See `Potential.with_nll_gradient`."""
        parts: List[Evaluation] = []  # noqa: UP006  (TorchScript)
        nll, of_score = edge_vec.new_zeros(0), edge_vec.new_zeros(0, 3)
        local, rigidity = False, (nll, nll)
        for k, member in enumerate(self.members):
            e, score = member.evaluate(
                edge_vec, edge_index, atom_types, batch, num_structures, reduction if k == 0 else ""
            )
            if k == 0:
                nll, of_score, local = member.mixture(e.features, atom_types), score, member.noise.local
                scales = member.network.scale_shift.scales[atom_types]
                rigidity = member.rigidity(e.features, scales, batch, num_structures)
            parts.append(e)
        edge_vec = edge_vec.detach().to(torch.float64)
        prediction = derived(
            joined(parts), nll, edge_index, edge_vec, batch, num_structures, local, self.ddof
        )
        return self.calibration(prediction, rigidity, batch, num_structures), of_score


def first_member(model: Potential | Ensemble) -> Potential:
    """The potential whose features and score are the model's: its first member, or itself."""
    return model.members[0] if isinstance(model, Ensemble) else model


class InferenceEnsemble(nn.Module):
    """The inference form of an `Ensemble`: that of every member, their derivatives combined at once.

    Attributes:
        tabulation: as a potential's: "intervals" and "weights_error" of all layers of all members, the
            largest of the members' other errors.
    """

    def __init__(self, ensemble: Ensemble, tolerance: float | None = None) -> None:
        super().__init__()
        members = [InferencePotential(member, tolerance) for member in ensemble.members]
        self.members = nn.ModuleList(members)
        self.calibration = copy.deepcopy(ensemble.calibration)
        self.ddof, self.config, self.card = ensemble.ddof, ensemble.config, ensemble.card
        tables = [member.tabulation for member in members]
        self.tabulation: dict = {"tolerance": tables[0]["tolerance"]}
        for name in ("intervals", "weights_error"):
            self.tabulation[name] = [value for table in tables for value in table[name]]
        for name in ("energy_error", "forces_error"):
            self.tabulation[name] = max(table[name] for table in tables)
        self.eval()

    def forward(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int
    ) -> Prediction:
        """Evaluate a batch; see `Potential.forward`."""
        return self.with_nll_gradient(edge_vec, edge_index, atom_types, batch, num_structures, "")[0]

    def with_nll_gradient(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int,
        reduction: str,
    ) -> tuple[Prediction, Tensor]:  # fmt: skip
        """See `Potential.with_nll_gradient`."""
        edge_vec = edge_vec.detach().to(torch.float64)
        parts: List[Evaluation] = []  # noqa: UP006  (TorchScript)
        nll, of_score = edge_vec.new_zeros(0), edge_vec.new_zeros(0, 3)
        local, rigidity = False, (nll, nll)
        for k, member in enumerate(self.members):
            e, score = member.evaluate(
                edge_vec, edge_index, atom_types, batch, num_structures, False, False,
                reduction if k == 0 else "", True, None,
            )  # fmt: skip
            if k == 0:
                nll, of_score, local = member.mixture(e.features, atom_types), score, member.noise.local
                scales = member.scale_shift.scales[atom_types]
                rigidity = member.rigidity(e.features, scales, batch, num_structures)
            parts.append(e)
        if reduction != "":
            of_score = by_positions(edge_index, edge_vec, of_score, batch, num_structures)
        prediction = derived(
            joined(parts), nll, edge_index, edge_vec, batch, num_structures, local, self.ddof
        )
        return self.calibration(prediction, rigidity, batch, num_structures), of_score

    @torch.jit.export
    def domain(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, num_owned: int, exchange: bool,
        uncertain: bool, numbers: Optional[Tensor] = None,  # noqa: UP045  (TorchScript)
    ) -> DomainPrediction:  # fmt: skip
        """See `InferencePotential.domain`."""
        edge_vec = edge_vec.detach().to(torch.float64)
        batch = torch.zeros(num_owned, dtype=torch.int64, device=edge_vec.device)
        parts: List[Evaluation] = []  # noqa: UP006  (TorchScript)
        traces: List[Tensor] = []  # noqa: UP006  (TorchScript)
        nll, types = edge_vec.new_zeros(0), atom_types[:num_owned]
        rigidity = (nll, nll)
        for k, member in enumerate(self.members):
            e = member.evaluate(
                edge_vec, edge_index, atom_types, batch, 1, exchange, True, "", uncertain, numbers
            )[0]
            parts.append(e)
            if uncertain:
                traces.append(member.noise.own_trace(e.slopes, edge_index, atom_types, num_owned, numbers))
            if uncertain and k == 0:
                nll = member.mixture(e.features, types)
                rigidity = member.rigidity(e.features, member.scale_shift.scales[types], batch, 1)
        trace = torch.stack(traces).mean(0) if uncertain else edge_vec.new_zeros(0)
        prediction = of_domain(
            joined(parts), nll, trace, edge_index, atom_types.shape[0], self.ddof, uncertain
        )
        return self.calibration.of_domain(prediction, rigidity)


def inference_form(
    model: Potential | Ensemble, tolerance: float | None = None
) -> InferencePotential | InferenceEnsemble:
    """`InferencePotential` of a potential, `InferenceEnsemble` of an ensemble."""
    return (InferenceEnsemble if isinstance(model, Ensemble) else InferencePotential)(model, tolerance)

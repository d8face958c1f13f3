"""Independent potentials evaluated as one."""

import copy
from collections.abc import Sequence
from typing import Dict, List

from torch import Tensor, nn

from uqforce.errors import ModelError
from uqforce.model.calibration import Calibration
from uqforce.model.config import ModelConfig
from uqforce.model.form import Form
from uqforce.model.graph import Graph
from uqforce.model.inference import InferencePotential
from uqforce.model.potential import Potential
from uqforce.model.prediction import Evaluation, joined

SHARED = ("type_names", "r_max", "per_edge_type_cutoff", "dtype", "noise")
"""Fields of the configuration in which members agree: they see the same edges, and their noise adds up."""


class Members(Form):
    """What an ensemble and its inference form share: `members` on the same edges, the first one's scores."""

    def evaluate(self, graph: Graph, reduction: str, uncertain: bool) -> tuple[Evaluation, Tensor]:
        """See `Potential.evaluate`."""
        parts: List[Evaluation] = []
        score_gradients: List[Tensor] = []
        for k, member in enumerate(self.members):
            e, score_gradient = member.evaluate(graph, reduction if k == 0 else "", uncertain)
            parts.append(e)
            score_gradients.append(score_gradient)
        return joined(parts), score_gradients[0]

    def scores(self, features: Tensor, graph: Graph) -> Dict[str, Tensor]:
        """See `Form.scores`."""
        return self.members[0].scores(features, graph)


class Ensemble(Members):
    """Evaluates independent potentials as one: their means, and what they disagree in as epistemic
    uncertainty.

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
        ModelError: one member, or members that do not belong together; the message names the field.

    Source: Lakshminarayanan, Pritzel, Blundell, arXiv:1612.01474.

    Example:
        >>> import uqforce
        >>> members = [uqforce.load_model("first/best.uqf"), uqforce.load_model("first/last.uqf")]
        >>> ensemble = uqforce.Ensemble(members)
        >>> uqforce.save_model(ensemble, "ensemble.uqf")
    """

    def __init__(self, members: Sequence[Potential], ddof: int = 0) -> None:
        super().__init__()
        if len(members) < 2 or ddof not in (0, 1):
            raise ModelError(
                f"an ensemble of {len(members)} with ddof {ddof}: give at least two members, and ddof 0 or 1"
            )
        for field in SHARED:
            values = [getattr(member.config, field) for member in members]
            if any(value != values[0] for value in values):
                raise ModelError(
                    f"members differ in {field}, {values}: they must agree in {', '.join(SHARED)}"
                )
        self.members = nn.ModuleList(members)
        self.calibration = Calibration()
        self.local, self.ddof = members[0].local, ddof
        self.config: ModelConfig = members[0].config
        first = members[0].card
        self.card: dict = {key: first[key] for key in ("units", "mixture", "thresholds") if key in first}
        self.card["ensemble"] = {"kind": "independent", "members": len(members), "ddof": ddof}
        self.eval()


def first_member(model: Potential | Ensemble) -> Potential:
    """The potential whose features and score are the model's: its first member, or itself."""
    return model.members[0] if isinstance(model, Ensemble) else model


class InferenceEnsemble(Members):
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
        self.local, self.ddof = ensemble.local, ensemble.ddof
        self.config, self.card = ensemble.config, ensemble.card
        tables = [member.tabulation for member in members]
        self.tabulation: dict = {"tolerance": tables[0]["tolerance"]}
        for name in ("intervals", "weights_error"):
            self.tabulation[name] = [value for table in tables for value in table[name]]
        for name in ("energy_error", "forces_error"):
            self.tabulation[name] = max(table[name] for table in tables)
        self.eval()


def inference_form(
    model: Potential | Ensemble, tolerance: float | None = None
) -> InferencePotential | InferenceEnsemble:
    """`InferencePotential` of a potential, `InferenceEnsemble` of an ensemble."""
    return (InferenceEnsemble if isinstance(model, Ensemble) else InferencePotential)(model, tolerance)

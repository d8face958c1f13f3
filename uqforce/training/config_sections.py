"""The sections of a training configuration, each field with its meaning."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from uqforce.errors import ConfigError
from uqforce.model import PRESETS, Ensemble, ModelConfig, load_model


def expand(path: str) -> str:
    """`path` with `~` and `${VARIABLE}` replaced. Raises ValueError for a variable that is not set."""
    expanded = os.path.expanduser(os.path.expandvars(path))
    unset = re.search(r"\$(\w+|\{\w+\})", expanded)
    if unset:
        name = unset.group(1).strip("{}")
        raise ValueError(
            f"the environment variable {name} is not set: export {name}=... or write the path out"
        )
    return expanded


def _expand_all(value: Any) -> Any:
    """One path or several as a list of expanded paths."""
    if isinstance(value, str):
        return [expand(value)]
    return (
        [expand(path) if isinstance(path, str) else path for path in value]
        if isinstance(value, list)
        else value
    )


Paths = Annotated[list[str], BeforeValidator(_expand_all)]


class Section(BaseModel):
    """Fields of one theme; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field of this type holds, or may hold; None for plain values."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


class SplitConfig(Section):
    """How validation frames are taken out of `data.train` where `data.validation` names no file."""

    by: Literal["seed", "group"] = Field(
        "seed",
        description="seed: shuffled frames; group: whole groups, frames of one value of data.keys.group",
    )
    validation: int | float | list[str] = Field(
        0.1, description="validation frames: a number, a fraction below 1, or (by: group) names of groups"
    )
    train: int | float | None = Field(
        None, description="by seed: training frames, a number or a fraction; null: all that are left"
    )
    seed: int = Field(0, ge=0, description="seed of the shuffle")

    @model_validator(mode="after")
    def _fits(self) -> SplitConfig:
        if self.by == "seed" and isinstance(self.validation, list):
            raise ValueError(f"validation: {self.validation} names groups, set by: group")
        if self.by == "group" and (self.train is not None or isinstance(self.validation, int)):
            raise ValueError("by: group takes a fraction or names of groups as validation, and no train")
        return self


class DataConfig(Section):
    """Frames with energies, forces, stresses: files that ASE reads, as extended XYZ (also .xz, .gz), or .npz.
    A path is one file or a list of files, relative to the working directory; ~ and ${VARIABLE} are replaced.
    """

    train: Paths = Field(description="training frames", json_schema_extra={"example": "train.xyz"})
    validation: Paths | None = Field(
        None, description="validation frames; null: taken from `train` by `split`"
    )
    split: SplitConfig = Field(default_factory=SplitConfig)
    test: dict[str, Paths] = Field(
        default_factory=dict, description="test sets of the final report, as {300 K: test_300K.xyz, ...}"
    )
    keys: dict[Literal["energy", "forces", "stress", "virial", "group"], str] = Field(
        default_factory=dict,
        description="names of the labels in the files where not the usual ones, as {energy: my_energy, ...}",
    )
    units: dict[Literal["energy", "length", "forces", "stress"], str] = Field(
        default_factory=dict,
        description="units of the files where not eV, A, eV/A, eV/A^3, as {energy: kcal/mol, ...}",
    )
    isolated_energies: dict[str, float] | str = Field(
        "least-squares",
        description="of isolated atoms: {H: -13.6, ...} in eV, a file of single atoms, or least-squares",
    )
    allow_duplicates: bool = Field(
        False,
        description="go on although a frame is in more than one of the training, validation and test sets",
    )
    allow_missing_labels: bool = Field(
        False, description="train although some frames lack a label that the loss asks for (they are masked)"
    )

    @field_validator("isolated_energies", mode="before")
    @classmethod
    def _expanded(cls, value: Any) -> Any:
        return expand(value) if isinstance(value, str) else value


FORCES_WEIGHT = 100.0  # of mean squares; eV/A beside eV/atom


class PropertyLoss(Section):
    kind: Literal["mse", "huber", "likelihood", "marginal"] = Field(
        "mse",
        description="mse, huber, or Gaussian of the model's noise (needs model.noise): likelihood (forces: "
        "each atom's 3x3 covariance), marginal (forces: its diagonal, which depends on the frame)",
    )
    weight: float = Field(1.0, ge=0, description="factor of this property's mean loss; 0 leaves it out")
    delta: float = Field(
        0.01, gt=0, description="huber: residual where square turns to linear, in the property's unit"
    )


class LossConfig(Section):
    """Weighted sum of mean losses: of energy (eV/atom), forces (eV/A) and stress (eV/A^3) per component.
    A likelihood is in nats: per structure (total energy), force component (3x3 block of each atom) or stress
    component (6x6 covariance, divided by 9). A property that is named without a weight has 1, but forces of
    kind mse or huber 100.
    """

    energy: PropertyLoss = Field(default_factory=PropertyLoss)
    forces: PropertyLoss = Field(default_factory=lambda: PropertyLoss(weight=FORCES_WEIGHT))
    stress: PropertyLoss = Field(default_factory=lambda: PropertyLoss(weight=0.0))
    joint: bool = Field(
        False, description="one likelihood of a structure's energy and all its forces (model.noise: total)"
    )

    @field_validator("forces", mode="before")
    @classmethod
    def _weight_of_squares(cls, value: Any) -> Any:
        """Forces whose kind alone is given keep their default weight; a likelihood has 1, as it is."""
        if isinstance(value, dict) and value.get("kind", "mse") in ("mse", "huber"):
            return {"weight": FORCES_WEIGHT, **value}
        return value

    @model_validator(mode="after")
    def _something_to_learn(self) -> LossConfig:
        if self.energy.weight == self.forces.weight == self.stress.weight == 0:
            raise ValueError("all weights are 0: give energy, forces or stress a positive weight")
        if self.joint and not self.energy.kind == self.forces.kind == "likelihood":
            raise ValueError("joint: true is a likelihood: set energy.kind and forces.kind: likelihood")
        if self.joint and self.energy.weight != self.forces.weight:
            raise ValueError(
                f"joint: true is one likelihood: energy.weight {self.energy.weight} and forces.weight "
                f"{self.forces.weight} must be the same"
            )
        return self


class OptimizerConfig(Section):
    kind: Literal["amsgrad", "adamw"] = Field("amsgrad", description="amsgrad (Adam with AMSGrad) or adamw")
    lr: float = Field(0.01, gt=0, description="learning rate")
    weight_decay: float = Field(0.0, ge=0, description="weight decay")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the gradient's two running means")

    @field_validator("betas")
    @classmethod
    def _fractions(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both must be in [0, 1)")
        return betas


class ScheduleConfig(Section):
    """Learning rate by steps and validation losses, never by the clock: a resumed run follows the same."""

    kind: Literal["plateau", "cosine", "constant"] = Field(
        "plateau", description="plateau, cosine or constant"
    )
    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear increase from 0 at the start")
    patience: int = Field(
        20, ge=0, description="plateau: epochs without a lower validation loss before the rate falls"
    )
    factor: float = Field(0.8, gt=0, lt=1, description="plateau: what the rate is multiplied by")
    horizon: int | None = Field(
        None, ge=1, description="cosine: epochs until the lowest rate; null: all `epochs`"
    )
    final_factor: float = Field(
        0.001, ge=0, le=1, description="plateau, cosine: lowest rate as a fraction of lr"
    )


class SamplerConfig(Section):
    """Stochastic gradient Hamiltonian Monte Carlo over the weights (docs/uncertainty.md), in the place of
    optimizer, schedule, ema, clip and epochs. Lengths in epochs.
    """

    chains: int = Field(1, ge=1, description="independent chains, with seeds seed, seed + 1, ...")
    samples: int = Field(8, ge=1, description="of each chain: one after the burn-in, one after every cycle")
    burn_in: int = Field(400, ge=1, description="epochs in which the step size falls exponentially")
    freeze: int | None = Field(
        None,
        ge=1,
        description="epochs after which the preconditioner stays as it is; null: three quarters of burn_in",
    )
    cycle: int = Field(
        50, ge=1, description="epochs between samples, in which the step size falls as a cosine"
    )
    lr: float = Field(0.01, gt=0, description="step size at the start")
    lr_final: float = Field(3e-4, gt=0, description="step size at the end of the burn-in")
    lr_cycle: float = Field(1e-3, gt=0, description="step size at the start of every cycle")
    alpha: float = Field(0.1, gt=0, le=1, description="friction; 1 - alpha is the momentum's decay per step")
    beta: float = Field(0.999, ge=0, lt=1, description="decay of the running mean of squared gradients")
    eps: float = Field(1e-5, gt=0, description="added to the root of squared gradients")
    temperature: float = Field(
        1.0, ge=0, description="of the posterior; below 1 narrower, 0 without noise (AMSGrad)"
    )
    prior_scale: float = Field(
        1.0,
        gt=0,
        description="standard deviation of the weights' Gaussian prior, around zero or, with model.start, "
        "the network's weights there",
    )

    @model_validator(mode="after")
    def _frozen_by_the_first_sample(self) -> SamplerConfig:
        if self.freeze_epochs > self.burn_in:
            raise ValueError(
                f"freeze: {self.freeze} is after the first sample: at most burn_in, {self.burn_in}"
            )
        return self

    @property
    def freeze_epochs(self) -> int:
        return self.freeze or max(1, 3 * self.burn_in // 4)

    @property
    def epochs(self) -> int:
        """Up to the last sample."""
        return self.burn_in + (self.samples - 1) * self.cycle

    def sample_after(self, epoch: int) -> int | None:
        """Number of the sample that is taken after so many epochs; None where none is."""
        number, rest = divmod(epoch - self.burn_in, self.cycle)
        return number if rest == 0 and number >= 0 else None


class CheckpointConfig(Section):
    """A checkpoint is written after every epoch, and within epochs by these."""

    every_minutes: float | None = Field(
        10.0, gt=0, description="minutes between checkpoints within an epoch; null: none"
    )
    every_steps: int | None = Field(
        None, ge=1, description="steps between checkpoints within an epoch; null: none"
    )


def model_fields(path: str) -> dict[str, Any]:
    """The configuration of a model file, with its scales and shifts as trained. Raises ValueError."""
    try:
        potential = load_model(path)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    if isinstance(potential, Ensemble):
        number = len(potential.members)
        raise ValueError(f"{path} holds an ensemble of {number}: start from a member (member_00/best.uqf)")
    fields = potential.config.model_dump()
    for name, values in potential.network.scale_shift.named_parameters():
        fields[f"per_type_energy_{name}"] = dict(zip(fields["type_names"], values.tolist()))
    return fields


def _optional(name: str) -> tuple[Any, Any]:
    field = ModelConfig.model_fields[name]
    kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    if name in FROM_DATA:
        origin = f"; null: {FROM_DATA[name]}"
    else:
        origin = "" if field.default is None else f"; null: {json.dumps(field.default)} or the preset's"
    return kind | None, Field(None, description=field.description + origin)


FROM_DATA = {
    "type_names": "the elements of the training frames",
    "avg_num_neighbors": "mean over the training frames",
    "per_type_energy_scales": "rms of the training forces",
    "per_type_energy_shifts": "data.isolated_energies",
}


class _ModelSection(Section):
    """Fields of uqforce.model.ModelConfig. What is null comes from the preset, the data, or the default; with
    `start`, from that model.
    """

    if TYPE_CHECKING:  # its fields are those of ModelConfig, added below

        def __getattr__(self, name: str) -> Any: ...

    @model_validator(mode="before")
    @classmethod
    def _from_start(cls, values: Any) -> Any:
        """Write down what the model to start from says, so that it counts as configured."""
        if not isinstance(values, dict) or values.get("start") is None:
            return values
        start = expand(str(values["start"]))
        if ModelConfig.model_fields.keys() <= values.keys():  # written down before
            return {**values, "start": start}
        if values.get("preset") is not None:
            raise ValueError(f"preset: {values['preset']} and start exclude each other: leave one out")
        return {**model_fields(start), **values, "start": start}

    @model_validator(mode="after")
    def _freeze_needs_start(self) -> _ModelSection:
        if self.freeze and self.start is None:
            raise ValueError("freeze: true keeps the network of the model that `start` names: name one")
        if self.freeze and not self.has_noise:
            raise ValueError("freeze: true leaves only the noise to train: set noise: local")
        return self

    @property
    def has_noise(self) -> bool:
        return self.noise not in (None, "none")

    def resolve(
        self, type_names: list[str], avg_num_neighbors: float, scales: float, shifts: dict[str, float]
    ) -> ModelConfig:
        """The model's configuration, with these values where none are given. Raises ConfigError."""
        given = self.model_dump(exclude_none=True, exclude={"preset", "start", "freeze"})
        fields = {
            "type_names": type_names,
            "avg_num_neighbors": avg_num_neighbors,
            "per_type_energy_scales": scales,
            "per_type_energy_shifts": shifts,
            **given,
        }
        try:
            return ModelConfig.from_preset(self.preset, **fields) if self.preset else ModelConfig(**fields)
        except ValidationError as error:
            lines = (
                f"{'.'.join(map(str, ('model', *item['loc'])))}: {item['msg'].removeprefix('Value error, ')}"
                for item in error.errors()
            )
            raise ConfigError("\n".join(lines)) from None


ModelSection = create_model(  # type: ignore[call-overload]
    "ModelSection",
    __base__=_ModelSection,
    __doc__=_ModelSection.__doc__,
    preset=(
        Literal[tuple(PRESETS)] | None,
        Field(None, description=f"size to start from: {', '.join(PRESETS)}, as NequIP's; null: none"),
    ),
    start=(
        str | None,
        Field(None, description="model (.uqf) to start from, its architecture and weights; null: none"),
    ),
    freeze=(bool, Field(False, description="keep the network of `start` as it is and train the heads only")),
    r_max=(
        Annotated[(float, *ModelConfig.model_fields["r_max"].metadata)],
        Field(description=ModelConfig.model_fields["r_max"].description, json_schema_extra={"example": 5.0}),
    ),
    **{name: _optional(name) for name in ModelConfig.model_fields if name != "r_max"},
)

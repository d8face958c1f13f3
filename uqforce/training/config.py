"""The configuration of a training run: `TrainConfig`, read from YAML, every field with a description."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from uqforce.errors import ConfigError
from uqforce.files import write_atomically
from uqforce.model.noise_forms import NOISE_FORMS
from uqforce.training.config_sections import (
    CheckpointConfig,
    DataConfig,
    LossConfig,
    ModelSection,
    OptimizerConfig,
    SamplerConfig,
    ScheduleConfig,
    Section,
    expand,
    section_of,
)
from uqforce.training.methods import METHODS, contradiction, with_defaults


class TrainConfig(Section):
    """Everything that a training run depends on: data, model, loss, optimiser, schedule, seeds.

    `TrainConfig.load(path)` reads a YAML file, `TrainConfig.parse(fields)` a dictionary; both raise a
    `ConfigError` that names each wrong field, its value and the fix. Every field has a default but
    `data.train` and `model.r_max`; `uqforce template --full` explains them all. Lengths A, energies eV.

    Example:
        >>> import uqforce
        >>> config = uqforce.TrainConfig.parse({"data": {"train": "train.xyz"}, "model": {"r_max": 4.5}})
        >>> config.batch_size, config.loss.forces.weight
        (5, 100.0)
    """

    output: str = Field(
        "training", description="directory of the run: log, metrics.csv, checkpoints, models, plots"
    )
    uncertainty: Literal[tuple(METHODS)] = Field(  # type: ignore[valid-type]
        "none",
        description=f"method, one word: {', '.join(METHODS)}; it sets the defaults of other fields "
        "(in comments in the full template), of which those that are given win",
    )
    data: DataConfig
    model: ModelSection
    loss: LossConfig = Field(default_factory=LossConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    ema: float | None = Field(
        0.99,
        gt=0,
        lt=1,
        description="decay per step of the weights' running mean, which is validated and saved; null: off",
    )
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; null: no clipping")
    batch_size: int = Field(5, ge=1, description="structures per step, shared among the processes")
    epochs: int = Field(100, ge=1, description="passes over the training frames")
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="end before the epoch that would pass this time, restarts included; null: none",
    )
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    sampler: SamplerConfig | None = Field(
        None, description="a Bayesian network instead of one model: fields as below; null: none"
    )
    seed: int = Field(0, ge=0, description="seed of the initial weights and of the order of frames")
    members: int = Field(
        1, ge=1, description="models to train, with seeds seed, seed + 1, ...; more than 1: an ensemble"
    )
    parallel: int = Field(1, ge=1, description="members or chains run at the same time, each in a process")
    dropout_samples: int = Field(
        8, ge=2, description="masks of a model with dropout, kept as heads in ensemble.uqf"
    )
    compile: bool = Field(
        False,
        description="compile the steps first (a C++ compiler, a minute or less): small models and batches "
        "are trained faster, with the same numbers to rounding; not with noise or dropout",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="threads of each process; null: as torch chooses (OMP_NUM_THREADS), shared by members "
        "that are trained at the same time",
    )

    @field_validator("output")
    @classmethod
    def _expanded(cls, value: str) -> str:
        return expand(value)

    @model_validator(mode="before")
    @classmethod
    def _posterior(cls, values: Any) -> Any:
        """With a sampler, no running mean, and as many epochs as it takes."""
        if not isinstance(values, dict) or values.get("sampler") is None:
            return values
        sampler = values["sampler"]
        if isinstance(sampler, dict):
            try:
                sampler = SamplerConfig(**sampler)
            except ValidationError:
                return values  # told with its place below
        return with_defaults(values, {"ema": None, "epochs": sampler.epochs})

    @model_validator(mode="before")
    @classmethod
    def _as_uncertainty_says(cls, values: Any) -> Any:
        """Write down what the word implies, so that it counts as configured."""
        word = values.get("uncertainty") if isinstance(values, dict) else None
        return with_defaults(values, METHODS[word].defaults) if word in METHODS else values

    @model_validator(mode="before")
    @classmethod
    def _horizon_is_epochs(cls, values: Any) -> Any:
        """Write the cosine's length down, so that a resume notices a change of `epochs` that changes it."""
        schedule = values.get("schedule") if isinstance(values, dict) else None
        if (
            isinstance(schedule, dict)
            and schedule.get("kind") == "cosine"
            and schedule.get("horizon") is None
        ):
            return {**values, "schedule": {**schedule, "horizon": values.get("epochs", 100)}}
        return values

    @model_validator(mode="after")
    def _is_what_uncertainty_says(self) -> TrainConfig:
        if (problem := contradiction(self.uncertainty, self)) is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _likelihood_needs_noise(self) -> TrainConfig:
        losses = {name: getattr(self.loss, name) for name in ("energy", "forces", "stress")}
        asked = [name for name, loss in losses.items() if loss.kind in ("likelihood", "marginal")]
        noise = self.model.noise or "none"
        likelihoods = NOISE_FORMS[noise].likelihoods if noise in NOISE_FORMS else asked
        if refused := [f"loss.{name}.kind" for name in asked if name not in likelihoods]:
            raise ValueError(
                f"{' and '.join(refused)}: a likelihood needs what model.noise: {noise} lacks, set "
                "model.noise: local (or total)"
            )
        if self.loss.joint and noise != "total":
            raise ValueError(f"loss.joint: true needs model.noise: total, not {noise}")
        if self.model.freeze and not any(losses[name].weight for name in asked):
            raise ValueError(
                "model.freeze: true leaves the noise to train, which only a likelihood sees: set "
                "loss.energy.kind or loss.forces.kind: likelihood"
            )
        return self

    @model_validator(mode="after")
    def _is_compilable(self) -> TrainConfig:
        if self.compile and self.model.has_noise:
            raise ValueError(f"compile: true knows no model.noise: {self.model.noise}, set compile: false")
        if self.compile and self.model.dropout:
            raise ValueError(
                f"compile: true knows no model.dropout: {self.model.dropout}, set compile: false"
            )
        return self

    @model_validator(mode="after")
    def _is_a_posterior(self) -> TrainConfig:
        if self.sampler is None:
            return self
        for name in ("energy", "forces", "stress"):
            loss = getattr(self.loss, name)
            if loss.weight not in (0, 1) or (loss.weight and loss.kind in ("mse", "huber")):
                raise ValueError(
                    f"loss.{name} of kind {loss.kind} and weight {loss.weight:g} is no part of a posterior, "
                    "which sampler asks for: a likelihood has weight 1, what is left out weight 0"
                )
        for name in ("optimizer", "schedule", "clip"):
            if getattr(self, name) != TrainConfig.model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name}: sampler takes its place, leave it out")
        if self.ema is not None:
            raise ValueError(f"ema: {self.ema}: samples are no means, leave it out")
        if self.epochs != self.sampler.epochs:
            made = self.sampler.epochs
            raise ValueError(
                f"epochs: {self.epochs}: sampler's burn_in, samples and cycle make {made}, leave it out"
            )
        if self.members > 1:
            raise ValueError(f"members: {self.members}: a sampler has chains, set sampler.chains")
        if self.model.heads is not None and self.model.heads > 1:
            raise ValueError(f"model.heads: {self.model.heads}: a sample is one network, leave it out")
        if self.model.dropout:
            raise ValueError(f"model.dropout: {self.model.dropout}: a posterior has none, leave it out")
        if self.sampler.chains * self.sampler.samples < 2:
            raise ValueError("sampler: 1 chain of 1 sample: a Bayesian network has at least two samples")
        return self

    @staticmethod
    def load(path: str | os.PathLike) -> TrainConfig:
        """Read and validate a YAML file. Raises ConfigError."""
        try:
            values = yaml.safe_load(Path(path).read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: no such file; `uqforce template -o {path}` writes one to start from"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid YAML: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds {type(values).__name__}, not the fields of a configuration")
        return TrainConfig.parse(values, str(path))

    def save(self, path: Path) -> None:
        """Write every field as YAML that `load` reads, atomically."""
        text = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        write_atomically(path, text.encode())

    @staticmethod
    def parse(values: dict[str, Any], source: str = "configuration") -> TrainConfig:
        """Validate a dictionary. Raises ConfigError naming each wrong field, its value and the fix."""
        try:
            return TrainConfig.model_validate(values)
        except ValidationError as error:
            lines = [_explain(item) for item in error.errors()]
            raise ConfigError(f"{source}:\n" + "\n".join(f"  {line}" for line in lines)) from None


FREE = (
    "output",
    "epochs",
    "max_minutes",
    "checkpoint",
    "compile",
    "threads",
    "dropout_samples",
    "uncertainty",
    "sampler.chains",
    "sampler.samples",
    "data.train",
    "data.validation",
    "data.test",
)
"""Fields that may change on resume: none alters a step's mathematics. Frames are compared by their hash, and
instead of the word `uncertainty` the fields that it sets."""


def fixed_fields(config: TrainConfig) -> dict[str, Any]:
    """Dotted name -> value of every field that must not change between a checkpoint and its resumption."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                walk(f"{prefix}.{key}" if prefix else key, entry)
        else:
            flat[prefix] = value

    walk("", json.loads(config.model_dump_json()))
    return {k: v for k, v in flat.items() if not any(k == free or k.startswith(free + ".") for free in FREE)}


def config_hash(config: TrainConfig) -> str:
    """sha256 of the fields that must not change."""
    return hashlib.sha256(json.dumps(fixed_fields(config), sort_keys=True).encode()).hexdigest()


def _field_at(location: tuple[Any, ...]) -> tuple[type[BaseModel] | None, Any]:
    """The section and the field that a pydantic error location points into."""
    section: Any = TrainConfig
    field = None
    for key in location:
        if (
            not (isinstance(section, type) and issubclass(section, BaseModel))
            or key not in section.model_fields
        ):
            break
        field = section.model_fields[key]
        section = section_of(field.annotation) or section
    return section, field


def _explain(error: Mapping[str, Any]) -> str:
    """One pydantic error as `field: value: what is wrong. fix`."""
    # pydantic marks the branch of a union by its type, which means nothing to a reader
    location = tuple(
        key for key in error["loc"] if key not in ("str", "float", "int") and "[" not in str(key)
    )
    name = ".".join(str(key) for key in location) or "configuration"
    section, field = _field_at(location)
    if error["type"] == "extra_forbidden":
        names = list(section.model_fields)
        close = difflib.get_close_matches(str(location[-1]), names, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(names)}"
        return f"{name}: {error['input']!r}: no such field, {fix}"
    if error["type"] == "missing":
        return f"{name}: missing, give it ({field.description if field else 'see `uqforce template`'})"
    message = error["msg"].removeprefix("Value error, ")
    meaning = f" ({field.description})" if field is not None and field.description else ""
    given = "" if isinstance(error["input"], dict | BaseModel) else f"{error['input']!r}: "
    return f"{name}: {given}{message}{meaning}"

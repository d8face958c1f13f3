"""The configuration of a model: every choice that fixes its architecture."""

from typing import Literal

from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from uqforce.errors import ConfigError
from uqforce.model.noise_forms import NOISE_FORMS

PRESETS: dict[str, dict] = {
    "S": {"num_layers": 2, "l_max": 1, "num_features": [128, 64]},
    "M": {"num_layers": 4, "l_max": 2, "num_features": [128, 64, 32]},
    "L": {"num_layers": 6, "l_max": 3, "num_features": [128, 64, 32, 32]},
    "XL": {"num_layers": 6, "l_max": 4, "num_features": [320, 96, 64, 32, 32]},
}
"""NequIP's named sizes (nequip 0.19); all with parity off, 32 type features, radial networks of 1 x 128."""

_PRESET_COMMON = {
    "parity": False,
    "type_embed_num_features": 32,
    "radial_mlp_depth": 1,
    "radial_mlp_width": 128,
}


NOISE = ("noise", "gamma", "gamma_kind", "noise_probes", "white_energy", "project_net_force")
"""Fields of the noise, none of the network's."""


class ModelConfig(BaseModel):
    """Says what a potential is made of: NequIP's architecture, heads and noise.

    Field names and defaults follow nequip 0.19's `NequIPGNNModel`. A wrong value raises pydantic's
    `ValidationError`, a ValueError. Source: Batzner et al., Nat. Commun. 13, 2453 (2022).

    Example:
        >>> import uqforce
        >>> config = uqforce.ModelConfig.from_preset("S", type_names=["H", "O"], r_max=5.0)
        >>> config.num_layers, config.num_features
        (2, [128, 64])
    """

    model_config = ConfigDict(extra="forbid")

    type_names: list[str] = Field(description="chemical symbols; an atom's type is the index into this list")
    r_max: float = Field(gt=0, description="cutoff radius, A")
    num_layers: int = Field(4, ge=1, description="interaction layers")
    l_max: int = Field(
        1, ge=0, le=4, description="highest rotation order of the features and spherical harmonics"
    )
    parity: bool = Field(True, description="features of both parities, or only (-1)^l")
    num_features: list[int] = Field([32], description="channels, one number or one per l = 0..l_max")
    type_embed_num_features: int | None = Field(
        None, ge=1, description="channels of the type embedding; default: of l = 0"
    )
    radial_mlp_depth: int = Field(1, ge=0, description="hidden layers of the radial networks")
    radial_mlp_width: int = Field(128, ge=1, description="width of the radial networks")
    readout_mlp_hidden_layers_depth: int = Field(0, ge=0, description="hidden layers of the energy readout")
    readout_mlp_hidden_layers_width: int | None = Field(
        None, ge=1, description="their width; default: channels of l = 0"
    )
    readout_mlp_nonlinearity: Literal["silu", "mish", "gelu", "none"] = Field(
        "silu", description="function between the layers of the readout"
    )
    num_bessels: int = Field(8, ge=1, description="radial basis functions")
    bessel_trainable: bool = Field(False, description="train the basis functions' frequencies")
    polynomial_cutoff_p: float = Field(6.0, ge=2, description="exponent of the polynomial cutoff")
    per_edge_type_cutoff: dict[str, float | dict[str, float]] | None = Field(
        None, description="cutoffs below r_max by centre type, or by centre and neighbour type, A"
    )
    avg_num_neighbors: float | dict[str, float] = Field(
        1.0, description="mean number of neighbours, overall or per type"
    )
    per_type_energy_scales: float | dict[str, float] | None = Field(
        None, description="energy scale, overall or per type, eV"
    )
    per_type_energy_shifts: float | dict[str, float] | None = Field(
        None, description="energy of an isolated atom, overall or per type, eV"
    )
    per_type_energy_scales_trainable: bool = Field(False, description="train the scales")
    per_type_energy_shifts_trainable: bool = Field(False, description="train the shifts")
    zbl: bool = Field(False, description="add the Ziegler-Biersack-Littmark repulsion")
    heads: int = Field(
        1, ge=1, description="energy readouts on one network, each with its own noise: an ensemble of heads"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="probability of a last feature to be left out, in training only"
    )
    noise: str = Field(
        "none",
        description="noise of the labels: "
        + ", ".join(f"{name} ({form.meaning})" for name, form in NOISE_FORMS.items() if name != "none"),
    )
    gamma: float | None = Field(
        None, gt=0, description="inverse length over which coherent noise changes, 1/A, or where it starts"
    )
    gamma_kind: Literal["constant", "learned", "output"] = Field(
        "learned",
        description="gamma as given, learned (local: one per type), or an output of the network (total only)",
    )
    noise_probes: int = Field(
        8, ge=1, description="local-deep: probes P; relative error of a variance at most sqrt(2/P)"
    )
    white_energy: Literal["mean", "sum", "rss"] = Field(
        "mean", description="white: the energy's standard deviation from its atoms' numbers"
    )
    project_net_force: bool = Field(False, description="total: no noise of the net force")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision inside the network")

    @classmethod
    def from_preset(cls, preset: str, **fields) -> "ModelConfig":
        """A configuration of NequIP's size `S`, `M`, `L` or `XL`; `fields` override the preset's."""
        if preset.upper() not in PRESETS:
            raise ConfigError(f"preset {preset!r} is not one of {', '.join(PRESETS)}")
        return cls(**{**_PRESET_COMMON, **PRESETS[preset.upper()], **fields})

    @field_validator("num_features", mode="before")
    @classmethod
    def _one_or_many(cls, value):
        return [value] if isinstance(value, int) else value

    @field_validator("noise")
    @classmethod
    def _known_noise(cls, name: str) -> str:
        if name not in NOISE_FORMS:
            raise ValueError(f"noise {name!r} is not one of {', '.join(NOISE_FORMS)}")
        return name

    @field_validator("type_names")
    @classmethod
    def _known_elements(cls, names: list[str]) -> list[str]:
        unknown = [name for name in names if name not in chemical_symbols[1:]]
        if not names or unknown:
            raise ValueError(f"type_names must be chemical symbols, found {unknown or 'none'}")
        if len(set(names)) < len(names):
            raise ValueError(f"type_names holds an element twice: {names}")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if len(self.num_features) == 1:
            self.num_features = self.num_features * (self.l_max + 1)
        if len(self.num_features) != self.l_max + 1 or min(self.num_features) < 1:
            raise ValueError(
                f"num_features {self.num_features} must be one positive number or {self.l_max + 1}, one per l"
            )
        for field in ("avg_num_neighbors", "per_type_energy_scales", "per_type_energy_shifts"):
            value = getattr(self, field)
            if isinstance(value, dict) and set(value) != set(self.type_names):
                raise ValueError(f"{field} {value} must name exactly the types {self.type_names}")
        if min(self.per_type("avg_num_neighbors", 1.0)) <= 0:
            raise ValueError(f"avg_num_neighbors {self.avg_num_neighbors} must be positive")
        if self.dropout and self.heads > 1:
            raise ValueError(f"dropout {self.dropout} and heads {self.heads} exclude each other")
        self.cutoff_table()
        self._consistent_noise()
        return self

    def _consistent_noise(self) -> None:
        if self.gamma_kind == "constant" and self.gamma is None:
            raise ValueError("gamma_kind constant takes gamma as it is given: give gamma, 1/A")
        for field, value in (("gamma_kind", "output"), ("project_net_force", True)):
            if getattr(self, field) == value and self.noise != "total":
                raise ValueError(f"{field} {value} is for noise total, not {self.noise}")

    def per_type(self, field: str, default: float) -> list[float]:
        """The value of a field that is given overall, per type or not at all (`default`), one per type."""
        value = getattr(self, field)
        if isinstance(value, dict):
            return [value[name] for name in self.type_names]
        return [default if value is None else value] * len(self.type_names)

    def cutoff_table(self) -> list[list[float]]:
        """Cutoff of each (centre type, neighbour type), A; `r_max` where none is given."""
        table = [[self.r_max] * len(self.type_names) for _ in self.type_names]
        for centre, entry in (self.per_edge_type_cutoff or {}).items():
            entries = entry if isinstance(entry, dict) else dict.fromkeys(self.type_names, entry)
            for neighbour, cutoff in entries.items():
                for name in (centre, neighbour):
                    if name not in self.type_names:
                        raise ValueError(
                            f"per_edge_type_cutoff names {name!r}, not one of type_names {self.type_names}"
                        )
                if not 0 < cutoff <= self.r_max:
                    raise ValueError(
                        f"per_edge_type_cutoff {centre}-{neighbour} = {cutoff} must be in (0, {self.r_max}]"
                    )
                table[self.type_names.index(centre)][self.type_names.index(neighbour)] = cutoff
        return table

    def hidden_irreps(self) -> str:
        """Irreps of the hidden features, in NequIP's order: l ascending, even before odd."""
        parities = {l: ("e", "o") if self.parity else ("eo"[l % 2],) for l in range(self.l_max + 1)}
        return " + ".join(
            f"{self.num_features[l]}x{l}{p}" for l in range(self.l_max + 1) for p in parities[l]
        )

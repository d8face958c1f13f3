"""Model files: safetensors with the configuration and the card in the header. Loading one runs no code."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from uqforce._version import __version__
from uqforce.errors import ModelFileError
from uqforce.files import write_atomically
from uqforce.model.config import NOISE, ModelConfig
from uqforce.model.ensemble import Ensemble
from uqforce.model.potential import Potential

FORMAT_VERSION = 5  # 2 has projected mixtures, 3 noise, 4 members, 5 calibration, rigidity, mixtures per type


def save_model(model: Potential | Ensemble, path: str | os.PathLike) -> None:
    """Write a model with its configuration, card, weights and scores to the file `path` (.uqf), at once or
    not at all.

    The file is safetensors with a JSON header; `load_model` reads it and runs no code. An existing file is
    replaced.

    Raises: OSError where `path` cannot be written.

    Example:
        >>> import uqforce
        >>> model = uqforce.load_model("model.uqf")
        >>> model.card["note"] = "for the tour"
        >>> uqforce.save_model(model, "noted.uqf")
    """
    header = {"format_version": _format_of(model), "uqforce_version": __version__}
    if isinstance(model, Ensemble):
        header |= {"card": model.card, "ddof": model.ddof, "members": [_entry(m) for m in model.members]}
    else:
        header |= _entry(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, save(tensors, metadata={"uqforce": json.dumps(header)}))


def _format_of(model: Potential | Ensemble) -> int:
    """The oldest format that has a place for all of the model."""
    newest = ("calibration.", "rigidity.", "mixture.counts")
    if any(part in name for name in model.state_dict() for part in newest):
        return 5
    if isinstance(model, Ensemble) or model.config.heads > 1:
        return 4
    if model.config.noise != "none":
        return 3
    return 1 if model.mixture.projection is None else 2


def _entry(potential: Potential) -> dict:
    """Architecture, configuration, as far as the format knows it, and card."""
    of_format = _format_of(potential)
    unknown = {"heads", *NOISE} if of_format < 3 else {"heads"} if of_format < 4 else set()
    return {
        "architecture": potential.architecture,
        "config": potential.config.model_dump(exclude=unknown),
        "card": potential.card,
    }


def upgrade(config: dict, tensors: dict[str, Tensor]) -> None:
    """Bring a model of format 1 or 2 to format 3, where `variance_head` is a form of noise, `total`."""
    if "variance_head" not in config:
        return
    config["noise"] = "total" if config.pop("variance_head") else "none"
    for name in [name for name in tensors if name.startswith("variance_head.")]:
        tensor, name = tensors.pop(name), name.removeprefix("variance_head.")
        name = name.replace("mlp.", "head.") if name != "log_gamma" else "gamma.log_gamma"
        tensors[f"noise.{name}"] = tensor.unsqueeze(0)
    if config["noise"] == "total":
        tensors["noise.head.shift"] = torch.zeros(1, len(config["type_names"]), dtype=torch.float64)
        tensors["noise.log_gamma_strain"] = torch.zeros(1, dtype=torch.float64)


def load_model(
    path: str | os.PathLike, device: str | torch.device = "cpu", dtype: str | None = None
) -> Potential | Ensemble:
    """Read a model file (.uqf) in evaluation mode; no code in the file is run.

    Args:
        path: a file that `save_model`, `uqforce train` or another verb wrote.
        device: where its tensors go.
        dtype: "float32" or "float64" to convert the network; default: as saved.

    Raises:
        FileNotFoundError: no such file.
        ModelFileError: not a model file, truncated, or of a format newer than this uqforce reads.

    Example:
        >>> import uqforce
        >>> model = uqforce.load_model("model.uqf")
        >>> model.config.r_max, sorted(model.config.type_names)
        (3.5, ['Au', 'Cu'])
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"model file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("uqforce", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise ModelFileError(f"{path} is not a uqforce model file, or it is truncated ({error})") from error
    if header is None:
        raise ModelFileError(
            f"{path} is a safetensors file but not a uqforce model: its header has no 'uqforce' entry"
        )
    if header["format_version"] > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has model format {header['format_version']} (uqforce {header['uqforce_version']}); this "
            f"uqforce {__version__} reads formats up to {FORMAT_VERSION}: upgrade uqforce"
        )
    if "members" not in header:
        return _potential(header, tensors, dtype).to(device).eval()
    members = []
    for number, entry in enumerate(header["members"]):
        start = f"members.{number}."
        own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        members.append(_potential(entry, own, dtype))
    ensemble = Ensemble(members, header["ddof"])
    ensemble.load_state_dict(tensors)  # again, with its calibration
    ensemble.card = header["card"]
    return ensemble.to(device).eval()


def _potential(entry: dict, tensors: dict[str, Tensor], dtype: str | None) -> Potential:
    """One model of its configuration, card and tensors."""
    upgrade(entry["config"], tensors)
    config = ModelConfig(**entry["config"])
    if dtype is not None:
        config = ModelConfig(**{**entry["config"], "dtype": dtype})
    potential = Potential(config, entry.get("architecture", "nequip"))  # formats 1 to 5 knew no other
    potential.set_mixture(
        *(tensors[f"mixture.{name}"] for name in ("means", "precisions_cholesky", "log_weights")),
        projection=tensors.get("mixture.projection"),
        counts=tensors.get("mixture.counts"),
    )
    potential.load_state_dict(tensors)
    potential.card = entry["card"]
    return potential

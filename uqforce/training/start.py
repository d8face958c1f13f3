"""Training that starts from a model: fine-tuning, or new heads on a network that stays as it is."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from uqforce.errors import ConfigError
from uqforce.model import NOISE, ModelConfig, Potential, load_model
from uqforce.training.checkpoint import sha256

log = logging.getLogger("uqforce.training")
MAY_DIFFER = {
    *NOISE,
    "dropout",
    "dtype",
    "bessel_trainable",
    "per_type_energy_scales",
    "per_type_energy_shifts",
    "per_type_energy_scales_trainable",
    "per_type_energy_shifts_trainable",
}
"""Fields of the model's configuration that need not be those of the model to start from."""


def start_from(potential: Potential, path: str, freeze: bool) -> None:
    """Give a new potential the weights of a model file, the heads' where both have them.

    Energy scales and shifts are left as configured. With `freeze` the network takes no part in the training,
    and a mixture, fitted to its features, stays, as does a rigidity, where the energy scales are the model's
    own; otherwise they are left out, and the log says so.

    Raises:
        ConfigError: the architectures differ; the message names the field.
    """
    source = load_model(path)
    for field in sorted(set(ModelConfig.model_fields) - MAY_DIFFER):
        ours, theirs = getattr(potential.config, field), getattr(source.config, field)
        if ours != theirs:
            raise ConfigError(
                f"model.{field}: {ours}, but {path} has {theirs}: leave it out to start from there"
            )
    given, own = source.state_dict(), potential.state_dict()
    taken = [
        name for name in own if name in given and not name.startswith(("network.scale_shift.", "mixture."))
    ]
    potential.load_state_dict({**own, **{name: given[name] for name in taken}})
    new = sorted({name.partition(".")[0] for name in own if name not in given})
    log.info(f"starting from {path}" + (f", with a new {', '.join(new)}" if new else ""))
    potential.card["start"] = {"file": Path(path).name, "sha256": sha256(Path(path)), "frozen": freeze}
    if "imported" in source.card:
        potential.card["imported"] = source.card["imported"]
    if "calibration" in source.card:
        log.info("its calibration is left out, since uncertainties will change: `uqforce calibrate` anew")
    fitted = source.mixture.means.shape[0] > 0
    if freeze:
        potential.network.requires_grad_(False)
    if fitted and freeze:
        potential.take_mixture(source.mixture)
        potential.card |= {
            name: source.card[name] for name in ("mixture", "thresholds") if name in source.card
        }
    elif fitted:
        log.info("its mixture is left out, since the features will change: `uqforce fit` makes a new one")
    if source.rigidity.factor is None:
        return
    every_type = torch.arange(len(potential.config.type_names))
    if freeze and torch.equal(*(model.energy_scales(every_type) for model in (potential, source))):
        potential.rigidity.store(source.rigidity.factor)
        potential.card["llpr"] = source.card["llpr"]
    else:
        changed = "energy scales are others" if freeze else "features will change"
        log.info(f"its llpr is left out, since the {changed}: `uqforce fit --score llpr` makes a new one")

"""The chains of a Bayesian network: their runs, their samples as one model, their diagnostics."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from uqforce.data import Dataset
from uqforce.errors import TrainingError
from uqforce.evaluation.diagnostics import effective_sample_size, r_hat
from uqforce.evaluation.tables import aligned
from uqforce.model import Ensemble, load_model
from uqforce.model.predict import predict_dataset
from uqforce.training.config import TrainConfig
from uqforce.training.sampler import sample_name


def chain_config(config: TrainConfig, chain: int) -> TrainConfig:
    """The run of chain 0, 1, ...; what it writes lies in `output`/samples."""
    output = Path(config.output) / "samples" / f"chain_{chain:02d}"
    return config.model_copy(update={"output": str(output), "seed": config.seed + chain, "parallel": 1})


def joined_samples(chains: Sequence[TrainConfig]) -> Ensemble:
    """The samples as one model, chain by chain, of every chain as many as all have.

    Their covariances are unbiased: ddof 1.

    Raises: TrainingError where chains that `max_minutes` ended have too few.
    """
    number = min(map(_number_of_samples, chains))
    if number * len(chains) < 2:
        raise TrainingError(
            f"{len(chains)} chain(s) with {number} sample(s) when max_minutes ended them: a Bayesian network "
            "has at least two samples, raise max_minutes and go on"
        )
    samples = [load_model(Path(chain.output) / sample_name(k)) for chain in chains for k in range(number)]
    ensemble = Ensemble(samples, ddof=1)
    ensemble.card["ensemble"] |= {"kind": "bayes", "chains": len(chains), "samples": number}
    return ensemble


def _number_of_samples(chain: TrainConfig) -> int:
    wanted = chain.sampler.samples
    missing = (k for k in range(wanted) if not (Path(chain.output) / sample_name(k)).exists())
    return next(missing, wanted)


def draws_of(ensemble: Ensemble, dataset: Dataset, chains: int, batch_size: int = 8) -> dict[str, Tensor]:
    """Predictions of every sample: energy [C,S,B] eV, forces [C,S,3N] eV/A of all frames of a dataset."""
    said = predict_dataset(ensemble, dataset, ("energy_ensemble", "forces_ensemble"), batch_size)
    return {
        name: torch.from_numpy(said[f"{name}_ensemble"]).flatten(1).unflatten(0, (chains, -1))
        for name in ("energy", "forces")
    }


def write_diagnostics(draws: dict[str, Tensor], chains: Sequence[TrainConfig], directory: Path) -> str:
    """Write diagnostics.json: R-hat and effective sample sizes of predictions, temperatures. Returns a table.

    The temperature is the mean over the epochs after the burn-in of `SGHMC.kinetic_temperature`.
    """
    number, samples = next(iter(draws.values())).shape[:2]
    lines = [f"{number} chain(s) of {samples} samples; predictions of the validation frames:"]
    found: dict[str, dict] = {}
    if samples < 4:
        lines.append("R-hat and effective sample sizes need 4 samples or more of each chain")
    else:
        rows = [["", "R-hat", "95 %", "samples worth", "5 %"]]
        for name, values in draws.items():
            scale, size = r_hat(values), effective_sample_size(values)
            found[name] = {
                "r_hat": {"median": _quantile(scale, 0.5), "q0.95": _quantile(scale, 0.95)},
                "effective_samples": {"median": _quantile(size, 0.5), "q0.05": _quantile(size, 0.05)},
            }
            h, e = (found[name][kind].values() for kind in ("r_hat", "effective_samples"))
            rows.append([name, *(f"{value:.3f}" for value in h), *(f"{value:.1f}" for value in e)])
        lines.append(aligned(rows))
    temperatures = [_temperature(chain) for chain in chains]
    lines.append("temperature of the momenta " + ", ".join(f"{t:.3f}" for t in temperatures))
    content = {"chains": number, "samples": samples, **found, "temperature": temperatures}
    (directory / "diagnostics.json").write_text(json.dumps(content, indent=2) + "\n")
    return "\n".join(lines)


def _quantile(values: Tensor, q: float) -> float:
    return torch.nanquantile(values, q).item()


def _temperature(chain: TrainConfig) -> float:
    with open(Path(chain.output) / "metrics.csv", newline="") as file:
        rows = [float(row["temperature"]) for row in csv.DictReader(file)]
    sampled = rows[chain.sampler.burn_in - 1 :]
    return sum(sampled) / len(sampled) if sampled else math.nan

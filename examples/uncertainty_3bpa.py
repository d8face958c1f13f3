"""Every method of uncertainty on 3BPA: 50 structures of 300 K, judged at 300, 600 and 1200 K.

    python examples/uncertainty_3bpa.py                       # all of it, 20 minutes on one core
    python examples/uncertainty_3bpa.py coherent ensemble     # these methods; what is trained is kept

Needs the data (docs/results.md says which) in $UQFORCE_DATA/3bpa. Trains each method with the same small
network (those whose loss is a likelihood, but for the sampler, go on from the plain one), fits mixtures and
llpr to the plain one, calibrates on 50 other structures of 300 K, which also chose the best epoch, and
writes results.json, table.md and comparison.png to runs/uncertainty_3bpa.
"""

import json
import os
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import torch
from matplotlib.figure import Figure

from uqforce.data import Dataset, read_frames
from uqforce.engines.evaluate import calibrated, predict_frames
from uqforce.evaluation import metrics
from uqforce.evaluation.comparison import Comparison
from uqforce.evaluation.quality import without_nan
from uqforce.exporting.opening import open_model
from uqforce.model import load_model, save_model
from uqforce.training import TrainConfig, set_up_process, train
from uqforce.uncertainty.calibration_fit import KINDS, fit_calibration
from uqforce.uncertainty.llpr_fit import fit_rigidity
from uqforce.uncertainty.mixture_fit import fit_potential

DATA = Path(os.environ.get("UQFORCE_DATA", "../shared/data")) / "3bpa"
OUT = Path("runs/uncertainty_3bpa")
TESTS = {  # file, and every how many of its frames are taken: 56, 54 and 50
    "300 K": ("test_300K.xyz.xz", 30),
    "600 K": ("test_600K.xyz.xz", 40),
    "1200 K": ("test_1200K_100.xyz.xz", 2),
}  # fmt: skip
TRAINING, VALIDATION = 50, 50
BOOTSTRAP = 100

CONFIG = {
    "data": {"train": str(OUT / "train.xyz"), "validation": str(OUT / "validation.xyz"),
             "isolated_energies": "least-squares"},  # a likelihood of large errors is steep
    "model": {"r_max": 4.5, "num_layers": 2, "l_max": 1, "parity": False, "num_features": [32, 16],
              "radial_mlp_width": 32},
    "optimizer": {"lr": 0.01},
    "schedule": {"kind": "cosine", "warmup_epochs": 1},
    "ema": 0.99,
    "batch_size": 5,
    "epochs": 300,
    "seed": 0,
}  # fmt: skip
MSE = {"energy": {"kind": "mse", "weight": 1.0}, "forces": {"kind": "mse", "weight": 1.0}}
# Likelihoods excuse large errors by large variances: begun with random weights, they learn forces last.
START = {"start": str(OUT / "plain" / "best.uqf")}
# Chains differ more than the samples of one; few epochs of burn-in leave them all worse than plain training.
SAMPLER = {"chains": 4, "samples": 2, "burn_in": 600, "cycle": 50, "lr_final": 1e-3}
METHODS = {
    "plain": {"loss": MSE},
    "white": {"uncertainty": "white", "model": START},
    "coherent-total": {"uncertainty": "coherent-total", "model": START},
    "coherent": {"uncertainty": "coherent", "model": START},
    "ensemble": {"uncertainty": "ensemble", "members": 4, "loss": MSE},
    "heads": {"uncertainty": "heads", "model": {"heads": 8}, "loss": MSE},
    "dropout": {"uncertainty": "dropout", "model": START},
    "bayes": {"uncertainty": "bayes", "sampler": SAMPLER},
}
SCORES = ("mixture", "mixture per type", "llpr")  # of the plain network
COLUMNS = {  # number -> heading, factor
    "nll": ("NLL", 1), "crps": ("CRPS", 1000), "ence": ("ENCE", 1), "zms": ("mean z²", 1),
    "miscalibration_area": ("area", 1), "coverage_90": ("in 90 %", 1), "sharpness": ("sharpness", 1000),
    "spearman": ("Spearman", 1), "auroc_top_tenth": ("AUROC", 1), "auprc_top_tenth": ("AUPRC", 1),
    "ause": ("AUSE", 1), "auroc_shift": ("AUROC shift", 1),
}  # fmt: skip


def write_data() -> None:
    """The structures of every set, the same for all methods."""
    OUT.mkdir(parents=True, exist_ok=True)
    frames = ase.io.read(DATA / "train_300K.xyz.xz", ":")
    order = np.random.default_rng(0).permutation(len(frames))
    sets = {"train": order[:TRAINING], "validation": order[TRAINING : TRAINING + VALIDATION]}
    for name, chosen in sets.items():
        ase.io.write(OUT / f"{name}.xyz", [frames[i] for i in sorted(chosen)])
    for name, (file, every) in TESTS.items():
        ase.io.write(OUT / f"{name}.xyz", ase.io.read(DATA / file, f"::{every}"))


def trained(method: str) -> Path:
    """The model of a method, trained unless it is there."""
    folder = OUT / method
    done = folder / "seconds"
    names = ("ensemble.uqf", "best.uqf")
    if not done.exists():
        given = METHODS[method]
        if given.get("model") is START:
            trained("plain")
        model = CONFIG["model"] | given.get("model", {})
        replaced = ("optimizer", "schedule", "ema", "epochs") if "sampler" in given else ()
        common = {key: value for key, value in CONFIG.items() if key not in replaced}
        start = os.times()
        train(TrainConfig.parse({**common, **given, "model": model, "output": str(folder)}))
        # of the processor, members' processes included
        done.write_text(str(sum(os.times()[:4]) - sum(start[:4])))
    return next(folder / name for name in names if (folder / name).exists())


def with_score(score: str, dataset: Dataset) -> Path:
    """The plain model with a score fitted to its training set."""
    path = OUT / "plain" / f"{score}.uqf"
    if not path.exists():
        potential = load_model(trained("plain"))
        if score == "llpr":
            fit_rigidity(potential, dataset)
        else:
            fit_potential(potential, dataset, per_type=score == "mixture per type")
        save_model(potential, path)
    return path


def judged(name: str, path: Path, validation: Dataset) -> dict:
    """Errors, cost, and the uncertainties before and after each calibration, on every test set."""
    model = load_model(path)
    quantity = "forces_error" if name in SCORES else "forces_uncertainty"
    module, metadata = open_model(model)
    found: dict = {"quantity": quantity, "sets": {}}
    home: dict[str, Comparison] = {}
    for test in TESTS:
        frames = read_frames(OUT / f"{test}.xyz")
        predict_frames(module, metadata, frames[:20], torch.device("cpu"))  # warm
        start = time.process_time()
        predictions = predict_frames(module, metadata, frames, torch.device("cpu"))
        sizes = np.array([len(frame) for frame in frames])
        cost = (time.process_time() - start) / sizes.sum()
        raw = Comparison(test, frames, predictions)
        kinds = {"raw": raw}
        for kind in KINDS if name != "plain" else ():
            fit_calibration(model, validation, kind)
            kinds[kind] = Comparison(test, frames, calibrated(model, predictions, sizes))
        found["sets"][test] = {"errors": raw.errors(), "seconds_per_atom": cost} | {
            kind: c.uncertainty(BOOTSTRAP if kind == "scale" else 0, home.setdefault(kind, c))
            for kind, c in kinds.items()
        }
        if name == "plain":
            continue
        c = kinds["scale"]
        found["sets"][test]["curves"] = {
            "coverage": metrics.coverage_curve(
                c.force_residual.ravel(), c.force_std(quantity).ravel(), np.linspace(0, 1, 51)
            ).tolist(),
            "retention": metrics.retention_curve(c.predictions[quantity], c.atom_error)[26::27].tolist(),
        }
    return without_nan(found)


def table(results: dict) -> str:
    """The comparison in Markdown."""
    lines = []
    base = results.get("plain", {})
    lines += ["| method | force RMSE 300 / 600 / 1200 K (meV/A) | energy RMSE (meV/atom) | training time "
              "| prediction time |", "|---|---|---|---|---|"]  # fmt: skip
    for name, found in results.items():
        sets = found["sets"].values()
        forces = " / ".join(f"{1e3 * s['errors']['forces']['rmse']:.0f}" for s in sets)
        energy = " / ".join(f"{1e3 * s['errors']['energy_per_atom']['rmse']:.1f}" for s in sets)
        ratio = cost = "-"
        if base:
            ratio = f"{found['training_seconds'] / base['training_seconds']:.1f}"
            own, theirs = (min(s["seconds_per_atom"] for s in f["sets"].values()) for f in (found, base))
            cost = f"{own / theirs:.1f}"
        lines.append(f"| {name} | {forces} | {energy} | {ratio} | {cost} |")
    for test in TESTS:
        lines += ["", f"**Forces at {test}**, raw (only what is in eV/A) and after the scale factor:", ""]
        lines += ["| method | | " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |"]
        lines += ["|---|---|" + "---|" * len(COLUMNS)]
        for name, found in results.items():
            for kind in ("raw", "scale"):
                quality = found["sets"][test].get(kind, {}).get(found["quantity"])
                if quality:
                    cells = [cell(quality, key, factor) for key, (_, factor) in COLUMNS.items()]
                    lines.append(f"| {name} | {kind} | " + " | ".join(cells) + " |")
    lines += ["", "**Coverage of 90 % intervals of force components** after each calibration:", ""]
    lines += ["| method | " + " | ".join(f"{kind}, {test}" for kind in KINDS for test in TESTS) + " |"]
    lines += ["|---|" + "---|" * (len(KINDS) * len(TESTS))]
    for name, found in results.items():
        covered = [
            found["sets"][test].get(kind, {}).get(found["quantity"]) for kind in KINDS for test in TESTS
        ]
        if all(covered):
            lines.append(f"| {name} | " + " | ".join(f"{q['coverage_90']:.2f}" for q in covered) + " |")
    return "\n".join(lines) + "\n"


def cell(quality: dict, key: str, factor: float) -> str:
    """A number and half the width of its 95 % interval."""
    value, digits = quality.get(key), 1 if factor > 1 else 2
    if value is None:
        return "-"
    text = f"{factor * value:.{digits}f}"
    if interval := quality.get("intervals", {}).get(key):
        text += f" ± {factor * (interval[1] - interval[0]) / 2:.{digits}f}"
    return text


def draw(results: dict, path: Path) -> None:
    """Coverage and retention of all methods, after the scale factor, on every set."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, len(TESTS))
    for column, test in enumerate(TESTS):
        for number, (name, found) in enumerate(results.items()):
            curves, style = found["sets"][test]["curves"], {"color": f"C{number % 10}", "label": name}
            style["linestyle"] = "-" if number < 10 else "--"
            axes[0, column].plot(np.linspace(0, 1, 51), curves["coverage"], **style)
            kept = np.linspace(0, 1, len(curves["retention"]))
            axes[1, column].plot(kept, 1e3 * np.array(curves["retention"]), **style)
        axes[0, column].axline((0, 0), slope=1, color="0.4", linewidth=0.8)
        axes[0, column].set(title=test, xlabel="probability of the central interval")
        axes[1, column].set(xlabel="share of atoms kept, least uncertain first")
    axes[0, 0].set_ylabel("share of force components inside")
    axes[1, 0].set_ylabel("RMSE of their forces (meV/Å)")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main(chosen: list[str]) -> None:
    unknown = set(chosen) - set(METHODS)
    if unknown:
        sys.exit(f"no such method: {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    set_up_process(1)
    if not (OUT / "1200 K.xyz").exists():
        write_data()
    store = OUT / "results.json"
    results = json.loads(store.read_text()) if store.exists() else {}
    for method in chosen or METHODS:
        path = trained(method)
        config = load_model(path).config
        data = {
            name: Dataset.build(read_frames(OUT / f"{name}.xyz"), config.type_names, config.r_max)
            for name in ("train", "validation")
        }
        models = {method: path}
        if method == "plain":
            models |= {score: with_score(score, data["train"]) for score in SCORES}
        for name, model in models.items():
            results[name] = judged(name, model, data["validation"])
            results[name]["training_seconds"] = float((OUT / method / "seconds").read_text())
            store.write_text(json.dumps(results, indent=1))
            print(f"{name}: done", flush=True)
    ordered = [*SCORES, *METHODS]
    results = {name: results[name] for name in sorted(results, key=ordered.index)}
    (OUT / "table.md").write_text(table(results))
    draw({name: found for name, found in results.items() if name != "plain"}, OUT / "comparison.png")
    print(table(results))


if __name__ == "__main__":
    main(sys.argv[1:])

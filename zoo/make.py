"""Make a model of the zoo from its recipe: train, fit, evaluate, export, write the card.

    UQFORCE_DATA=DIR python zoo/make.py water          # or silicon, molecule

Run it from the top of the repository. zoo/NAME/train.yaml says everything; what is made lies in the folder
that it names, and the end of zoo/NAME/card.md is written anew. A finished training is not repeated.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from uqforce._version import __version__ as uqforce_version
from uqforce.model import load_model
from uqforce.training import TrainConfig

ZOO = Path(__file__).parent
# The BIC of silicon's mixture stops at a local best of 4; for water's 61 000 atoms its curve takes too long.
COMPONENTS = {"silicon": 10, "water": 16}
CUTOFFS = ("0.1", "0.2", "top_tenth")  # of atoms' errors, as `uqforce eval` names them
RULE = "|---|---|---|---|---|"
MARK = "<!-- what follows is written by zoo/make.py -->\n"


def run(*command: str | Path) -> None:
    print("$ python", *command, flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True)


def uqforce(verb: str, *arguments: str | Path) -> None:
    run("-m", "uqforce.cli", verb, *arguments)


def auroc(quality: dict, cutoff: str, atoms: int) -> str:
    """The area under the ROC curve, "-" where no error is above the cut-off, and how many atoms are."""
    area = quality[f"auroc_{cutoff}"]
    return f"{'-' if area is None else f'{area:.3f}'} ({quality[f'positives_{cutoff}']} of {atoms})"


def card(config: TrainConfig, out: Path) -> str:
    """Accuracy and quality of the score on the test sets, and what the model is known by, as Markdown."""
    report = json.loads((out / "eval/evaluation.json").read_text())
    names = {path: name for name, paths in config.data.test.items() for path in paths}
    errors = ["| set | frames | energy, meV/atom | forces, meV/A | stress, meV/A^3 |", RULE]
    ranks = ["| set | error > 0.1 eV/A | > 0.2 eV/A | in the top tenth | Spearman |", RULE]
    for path, found in report["sets"].items():
        pairs = [found["errors"].get(name) for name in ("energy_per_atom", "forces", "stress")]
        cells = [f"{1e3 * p['mae']:.2f} / {1e3 * p['rmse']:.2f}" if p else "" for p in pairs]
        errors.append(f"| {names[path]} | {found['structures']} | {' | '.join(cells)} |")
        score = found["uncertainty"]["nll"]
        cells = [auroc(score, cutoff, found["atoms"]) for cutoff in CUTOFFS]
        ranks.append(f"| {names[path]} | {' | '.join(cells)} | {score['spearman']:.2f} |")
    model = load_model(out / "model.uqf")
    mixture, network = model.card["mixture"], model.network
    quantiles = ", ".join(f"{name} {value:.1f}" for name, value in model.card["thresholds"]["nll"].items())
    limits = ", ".join(f"{e} eV/A from {s:.1f}" for e, s in report["limits"]["nll"].items() if s is not None)
    weights = sum(parameter.numel() for parameter in network.parameters())
    digest = hashlib.sha256((out / "model.uqf").read_bytes()).hexdigest()
    return f"""
## Accuracy: MAE / RMSE

{chr(10).join(errors)}

## Uncertainty: AUROC of `nll` for atoms of large error (rms force error of the atom)

{chr(10).join(ranks)}

Mixture of {mixture["components"]} components on {mixture["features"]} features of {mixture["atoms"]} atoms.
`nll` of the training atoms: {quantiles}.
Errors of tested atoms by their `nll` (`uqforce eval`): {limits or "none above 0.1 eV/A"}.

## The file

{weights} weights in {model.config.dtype}, cutoff {model.config.r_max} A, made with uqforce {uqforce_version}.
sha256 of the weights `{report["model"]["weights_sha256"]}`, of `model.uqf` `{digest}`.
"""


def main() -> None:
    recipes = sorted(path.parent.name for path in ZOO.glob("*/train.yaml"))
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("name", choices=recipes)
    folder = ZOO / parser.parse_args().name

    if (prepare := folder / "data.py").exists():
        run(prepare)
    config = TrainConfig.load(folder / "train.yaml")
    out, test = Path(config.output), [path for paths in config.data.test.values() for path in paths]
    components = ["--components", str(COMPONENTS[folder.name])] if folder.name in COMPONENTS else []
    model, exported = out / "model.uqf", out / "model.pt"
    uqforce("train", folder / "train.yaml")
    uqforce("fit", out / "best.uqf", *config.data.train, "-o", model, *components, "--overwrite")
    uqforce("eval", model, *test, "-o", out / "eval", "--overwrite")
    uqforce("export", model, "-o", exported, "--overwrite")
    about = (folder / "card.md").read_text().partition(MARK)[0]
    (folder / "card.md").write_text(about + MARK + card(config, out))
    print(f"wrote {model}, {exported} and {folder / 'card.md'}")


if __name__ == "__main__":
    main()

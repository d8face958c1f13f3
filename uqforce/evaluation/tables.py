"""An evaluation as text."""

from pathlib import Path
from typing import Any

ERRORS = {"energy_per_atom": "meV/atom", "forces": "meV/A", "stress": "meV/A^3"}
STRUCTURE_ERRORS = {
    "forces_rmse": "force RMSE",
    "largest_atom_error": "largest force error",
    "energy_per_atom": "energy error per atom",
}
ROWS = {
    "nll": ("NLL per component (nat)", 1),
    "block_nll": ("NLL of 3x3 blocks (nat)", 1),
    "crps": ("CRPS (meV, meV/A)", 1000),
    "energy_score": ("energy score (meV/A)", 1000),
    "relative_log_likelihood": ("relative log-likelihood", 1),
    "zms": ("mean z^2", 1),
    "ence": ("ENCE", 1),
    "ence_when_calibrated": ("ENCE if calibrated", 1),
    "nece": ("NECE", 1),
    "miscalibration_area": ("miscalibration area", 1),
    "coverage_68": ("coverage of 68 %", 1),
    "coverage_90": ("coverage of 90 %", 1),
    "coverage_95": ("coverage of 95 %", 1),
    "width_90": ("width of 90 % (meV, meV/A)", 1000),
    "sharpness": ("sharpness (meV, meV/A)", 1000),
    "spearman": ("Spearman", 1),
    "auroc_0.1": ("AUROC, atoms > 0.1 eV/A", 1),
    "auprc_0.1": ("AUPRC, atoms > 0.1 eV/A", 1),
    "auroc_top_tenth": ("AUROC, top tenth", 1),
    "auroc_components": ("AUROC, components > 1 kcal/mol/A", 1),
    "ause": ("AUSE", 1),
    "auroc_shift": ("AUROC, told from the first set", 1),
}
"""Number of an uncertainty -> what the table calls it, and the factor to the table's unit."""


def table(report: dict[str, Any]) -> str:
    """Errors of each set and their cost, then what each uncertainty is worth on it."""
    labels = {name: Path(name).name for name in report["sets"]}
    if len(set(labels.values())) < len(labels):
        labels = {name: name for name in labels}
    blocks = [
        errors([(labels[name], found) for name, found in report["sets"].items()]),
        *judgements([(labels[name], found) for name, found in report["sets"].items()]),
        *structures([(labels[name], found["uncertainty"]) for name, found in report["sets"].items()]),
        *(limits(quantity, found) for quantity, found in report["limits"].items()),
    ]
    return "\n\n".join(blocks)


def limits(quantity: str, found: dict[str, float | None]) -> str:
    """Limits for dynamics: the score that goes with each rms force error."""
    rows = [
        ["atoms of all sets with an rms force error of (eV/A)", *found],
        [
            f"have a {quantity} of (md --halt {quantity}=...)",
            *(number(value) for value in found.values()),
        ],
    ]
    return aligned(rows)


def aligned(rows: list[list[str]]) -> str:
    """Rows of equal length as text, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def errors(sets: list[tuple[str, dict[str, Any]]]) -> str:
    """MAE and RMSE of energy, forces and stress, of the forces on each element, and the time where known."""

    def cells(entry: dict[str, float] | None) -> list[str]:
        return [f"{1000 * entry['mae']:.2f}", f"{1000 * entry['rmse']:.2f}"] if entry else ["-", "-"]

    rows = [
        ["error", *(f"{what} {kind}" for what in ("energy", "forces", "stress") for kind in ("MAE", "RMSE"))],
        ["", *(unit for unit in ERRORS.values() for _ in range(2))],
    ]
    costs = ["cost", "us/atom"]
    for label, entry in sets:
        found = entry["errors"]
        rows.append([label, *(cell for quantity in ERRORS for cell in cells(found.get(quantity)))])
        costs.append(f"{1e6 * entry.get('seconds_per_atom', 0.0):.1f}")
        for symbol, of_type in found.get("forces_per_type", {}).items():
            rows.append([f"  {symbol}", "", "", *cells(of_type), "", ""])
            costs.append("")
    if all("seconds_per_atom" in entry for _, entry in sets):
        rows = [[*row, cost] for row, cost in zip(rows, costs)]
    return aligned(rows)


def judgements(sets: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """A block for each uncertainty: its numbers on every set, raw and calibrated."""
    columns = [
        (label if kind == "uncertainty" else f"{label} calibrated", found[kind])
        for label, found in sets
        for kind in ("uncertainty", "calibrated")
        if kind in found
    ]
    blocks = []
    for quantity in dict.fromkeys(name for _, found in columns for name in found):
        of = [(label, found[quantity]) for label, found in columns if quantity in found]
        rows = [[quantity, *(label for label, _ in of)]]
        for key, (name, factor) in ROWS.items():
            if any(key in found for _, found in of):
                rows.append([name, *(cell(found, key, factor) for _, found in of)])
        blocks.append(aligned(rows))
    return blocks


def cell(found: dict[str, Any], key: str, factor: float) -> str:
    """A number with its interval, and how many were to be found."""
    value = found.get(key)
    digits = 3 if factor == 1 else 1
    text = "-" if value is None else f"{factor * value:.{digits}f}"
    if (interval := found.get("intervals", {}).get(key)) is not None and value is not None:
        text += " [{:.{d}f}, {:.{d}f}]".format(*(factor * end for end in interval), d=digits)
    if key.startswith("auroc") and (positives := found.get(key.replace("auroc", "positives"))) is not None:
        text += f" ({positives})"
    return text


def structures(sets: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """How the scores of structures go with their errors."""
    blocks = []
    for quantity in dict.fromkeys(name for _, found in sets for name in found):
        if any(found.get(quantity, {}).get("structures") for _, found in sets):
            rows = [[f"{quantity} of a structure: Spearman with its", *STRUCTURE_ERRORS.values()]]
            for label, quality in sets:
                for kind, found in quality[quantity]["structures"].items():
                    rows.append([f"{label}, {kind}", *(number(found[key]) for key in STRUCTURE_ERRORS)])
            blocks.append(aligned(rows))
    return blocks

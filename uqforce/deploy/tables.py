"""An evaluation as text."""

from pathlib import Path
from typing import Any

ERRORS = {"energy_per_atom": "meV/atom", "forces": "meV/A", "stress": "meV/A^3"}
STRUCTURE_ERRORS = {
    "forces_rmse": "force RMSE",
    "largest_atom_error": "largest force error",
    "energy_per_atom": "energy error per atom",
}
CALIBRATION = ("zms", "ence", "miscalibration_area", "coverage_68", "coverage_95", "crps")


def table(report: dict[str, Any]) -> str:
    """Errors of each set, then what each uncertainty is worth on it."""
    labels = {name: Path(name).name for name in report["sets"]}
    if len(set(labels.values())) < len(labels):
        labels = {name: name for name in labels}
    blocks = [
        errors([(labels[name], found["errors"]) for name, found in report["sets"].items()]),
        *uncertainties([(labels[name], found["uncertainty"]) for name, found in report["sets"].items()]),
        *(limits(quantity, found) for quantity, found in report["limits"].items()),
    ]
    return "\n\n".join(blocks)


def limits(quantity: str, found: dict[str, float | None]) -> str:
    """Limits for dynamics: the score that goes with each rms force error."""
    option = quantity.replace("_", "-")
    rows = [
        ["atoms of all sets with an rms force error of (eV/A)", *found],
        [f"have a {quantity} of (for md --halt-{option})", *(number(value) for value in found.values())],
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
    """MAE and RMSE of energy, forces and stress, and of the forces on each element."""

    def cells(entry: dict[str, float] | None) -> list[str]:
        return [f"{1000 * entry['mae']:.2f}", f"{1000 * entry['rmse']:.2f}"] if entry else ["-", "-"]

    rows = [
        ["error", *(f"{what} {kind}" for what in ("energy", "forces", "stress") for kind in ("MAE", "RMSE"))]
    ]
    rows.append(["", *(unit for unit in ERRORS.values() for _ in range(2))])
    for label, found in sets:
        rows.append([label, *(cell for quantity in ERRORS for cell in cells(found.get(quantity)))])
        for symbol, entry in found.get("forces_per_type", {}).items():
            rows.append([f"  {symbol}", "", "", *cells(entry), "", ""])
    return aligned(rows)


def uncertainties(sets: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """A table of ranking and one of calibration for each uncertainty that has them."""
    blocks = []
    for quantity in dict.fromkeys(name for _, found in sets for name in found):
        entries = [(label, found[quantity]) for label, found in sets if quantity in found]
        if "detection" in entries[0][1]:
            cutoffs = list(entries[0][1]["detection"])
            rows = [[f"{quantity}: AUROC for atom errors", *cutoffs, "Spearman"]]
            for label, quality in entries:
                found = [quality["detection"][cutoff] for cutoff in cutoffs]
                cells = [f"{number(at['auroc'])} ({at['positives']}/{at['count']})" for at in found]
                rows.append([label, *cells, number(quality["spearman"])])
            blocks.append(aligned(rows))
        if any(quality.get("structures") for _, quality in entries):
            rows = [[f"{quantity} of a structure: Spearman with its", *STRUCTURE_ERRORS.values()]]
            for label, quality in entries:
                for kind, found in quality["structures"].items():
                    rows.append([f"{label}, {kind}", *(number(found[key]) for key in STRUCTURE_ERRORS)])
            blocks.append(aligned(rows))
        if "calibration" in entries[0][1]:
            rows = [[f"{quantity}: calibration", *CALIBRATION]]
            for label, quality in entries:
                rows.append([label, *(number(quality["calibration"][key]) for key in CALIBRATION)])
            blocks.append(aligned(rows))
    return blocks

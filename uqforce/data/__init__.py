"""Frames in; batches, statistics and stores out."""

from uqforce.data.batch import Batch, collate
from uqforce.data.batch_order import batches, ordered_batches
from uqforce.data.frame import Frame, check_types, require_labels, type_names_of
from uqforce.data.read import Keys, frame_from_atoms, read_frames
from uqforce.data.split import Split, check_leakage, find_duplicates, split_by_group, split_random
from uqforce.data.statistics import (
    AtomicEnergies,
    Statistics,
    compute_statistics,
    isolated_energies,
    least_squares_energies,
)
from uqforce.data.store import Dataset
from uqforce.data.units import Units

__all__ = [
    "AtomicEnergies",
    "Batch",
    "Dataset",
    "Frame",
    "Keys",
    "Split",
    "Statistics",
    "Units",
    "batches",
    "check_leakage",
    "check_types",
    "collate",
    "compute_statistics",
    "find_duplicates",
    "frame_from_atoms",
    "isolated_energies",
    "least_squares_energies",
    "ordered_batches",
    "read_frames",
    "require_labels",
    "split_by_group",
    "split_random",
    "type_names_of",
]

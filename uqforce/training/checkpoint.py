"""Checkpoints: the whole state of a training run in one file that runs no code when it is read.

A kill at any moment leaves a complete one (`uqforce.files`); the one before it is kept beside it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uqforce._version import __version__
from uqforce.errors import CheckpointError
from uqforce.files import write_atomically

log = logging.getLogger("uqforce.training")

FORMAT_VERSION = 1
NAME = "checkpoint.pt"
BACKUP = "checkpoint.previous.pt"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seed_generators(seed: int) -> None:
    """Start the torch, numpy and Python generators from one seed."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def rng_state() -> dict[str, Any]:
    """States of the torch, numpy and Python generators as tensors and plain values."""
    state: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = state
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def save(directory: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, plain values) as the directory's checkpoint; the one before is the backup."""
    buffer = io.BytesIO()
    torch.save({"format_version": FORMAT_VERSION, "uqforce_version": __version__, **state}, buffer)
    path = directory / NAME
    # Between the two renames only the backup exists; `find` then takes that one.
    if path.exists():
        os.replace(path, directory / BACKUP)
    write_atomically(path, buffer.getvalue())


def find(directory: Path) -> Path | None:
    """The checkpoint to resume from: the newest complete one, or None."""
    for name in (NAME, BACKUP):
        if (directory / name).exists():
            return directory / name
    return None


def load(path: Path, trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint without running code.

    With `trust` a file that holds more than tensors and plain values is read too, which runs whatever it
    contains; its sha256 is logged first.

    Raises: CheckpointError for a truncated or damaged file, one that would run code, one of a newer format.
    """
    damage = _damage(path)
    if damage:
        raise CheckpointError(f"{path} is truncated or damaged ({damage}); {_alternative(path)}")
    try:
        state = _load_plain(path)
    except pickle.UnpicklingError as error:
        if not trust:
            reason = str(error).strip().splitlines()
            detail = next(
                (line.strip() for line in reason if "GLOBAL" in line or "Unsupported" in line), reason[0]
            )
            raise CheckpointError(
                f"{path} holds pickled objects that could run code when read, and was refused ({detail}). "
                "If you made this file yourself, say so with --trust"
            ) from None
        log.warning(f"trusted on your word: {path}, sha256 {sha256(path)}")
        state = torch.load(path, map_location="cpu", weights_only=False)
    if not isinstance(state, dict) or "format_version" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of uqforce; {_alternative(path)}")
    if state["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {state['format_version']}, written by uqforce "
            f"{state['uqforce_version']}; this uqforce {__version__} reads formats up to {FORMAT_VERSION}: "
            "upgrade uqforce"
        )
    return state


def _damage(path: Path) -> str | None:
    """What is wrong with the bytes of the file, None for a complete archive or a bare pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            return f"checksum of {broken}" if broken else None
    except zipfile.BadZipFile as error:
        with open(path, "rb") as file:
            bare_pickle = file.read(1) == b"\x80"
        return None if bare_pickle else str(error)


def _alternative(path: Path) -> str:
    backup = path.with_name(BACKUP)
    if path.name != BACKUP and backup.exists():
        return f"the one before it is there: `mv {backup} {path}` resumes from there"
    return f"remove {path} to start anew"


def _load_plain(path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        # torch remarks on the pickle protocol of a file that is about to be refused
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)

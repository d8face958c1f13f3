"""One training run: from a configuration to a trained model and its report."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from uqforce.files import remove_unfinished
from uqforce.model import Potential, dropout_heads, load_model, save_model
from uqforce.training import checkpoint
from uqforce.training.config import TrainConfig
from uqforce.training.distributed import Processes
from uqforce.training.loop import Trainer, log
from uqforce.training.prepare import Prepared, prepare
from uqforce.training.report import write_learning_curves, write_report
from uqforce.training.sampler import Sampler
from uqforce.training.start import start_from


def train_model(
    config: TrainConfig,
    processes: Processes,
    trust: bool = False,
    allow_changed_config: bool = False,
    terminal: bool = True,
) -> Path:
    """Train one model, resuming where its directory holds a checkpoint. Returns the best model's path.

    Writes into `config.output`: config.yaml, train.log, metrics.csv, checkpoint.pt and its backup,
    best.uqf (lowest validation loss), last.uqf, report.txt, report.json, parity.png, learning_curves.png.
    With `terminal` the log also goes there. A chain (`config.sampler`) leaves samples in the place of models
    and report; a model with dropout, whose path is returned, ensemble.uqf beside them.
    """
    directory = Path(config.output)
    with run_log(directory, processes, terminal):
        return _train(config, directory, processes, trust, allow_changed_config)


def _train(
    config: TrainConfig, directory: Path, processes: Processes, trust: bool, allow_changed_config: bool
) -> Path:
    found = checkpoint.find(directory)
    state = checkpoint.load(found, trust) if found else None
    prepared = prepare(config, directory)
    checkpoint.seed_generators(config.seed)
    potential = Potential(prepared.model)
    potential.card = card(config, prepared)
    if config.model.start is not None:
        start_from(potential, config.model.start, config.model.freeze)
    if processes.first:
        remove_unfinished(directory)
    kind = Trainer if config.sampler is None else Sampler
    trainer = kind(
        config, potential, prepared.train, prepared.validation, directory, prepared.data_hash, processes
    )
    _describe(config, prepared, trainer, processes)
    if state is not None:
        trainer.resume(state, allow_changed_config)
        done = trainer.progress
        log.info(f"resuming from {found}: {done.epoch} epochs and {done.step} steps done")
    if processes.first:
        config.save(directory / "config.yaml")
    trainer.fit()
    best, done = directory / "best.uqf", trainer.progress
    log.info(f"{done.epoch} epochs took {done.seconds / 60:.1f} minutes")
    if processes.first and config.sampler is None:
        trainer.save_model("last.uqf")
        log.info(f"best model {best}, epoch {done.best_epoch}:")
        log.info(write_report(load_model(best), prepared.sets, directory))
        if config.model.dropout:
            heads = dropout_heads(load_model(best), config.dropout_samples, config.seed)
            save_model(heads, directory / "ensemble.uqf")
            log.info(f"{config.dropout_samples} masks of its dropout as heads: {directory / 'ensemble.uqf'}")
    if processes.first:
        write_learning_curves(directory)
    processes.wait()
    return directory / "ensemble.uqf" if config.model.dropout else best


def set_up_process(threads: int | None) -> None:
    """Settings of the whole process that make training fast: threads, denormals, and memory that is kept.

    The command line calls it before `train`; a program with other work to do chooses for itself.

    glibc gives large freed blocks back to the kernel, and every step then pays page faults for the same
    memory again; the two mallopt calls do what MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1 does.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    # before the first parallel region, so that the threads of the pool inherit it
    torch.set_flush_denormal(True)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_trim_threshold, -1)
        libc.mallopt(m_mmap_max, 0)


def card(config: TrainConfig, prepared: Prepared) -> dict:
    """What the model file says of its making; plain JSON values."""
    return {
        "units": {"length": "A", "energy": "eV", "forces": "eV/A", "stress": "eV/A^3"},
        "training": {
            "files": [Path(path).name for path in config.data.train],
            "frames": len(prepared.train),
            "validation_frames": len(prepared.validation),
            "data_hash": prepared.data_hash,
            "seed": config.seed,
        },
    }


def _describe(config: TrainConfig, prepared: Prepared, trainer: Trainer, processes: Processes) -> None:
    model, numbers = prepared.model, prepared.statistics
    weights = sum(parameter.numel() for parameter in trainer.parameters)
    log.info(f"uqforce training {time.strftime('%Y-%m-%d %H:%M:%S')}, output {trainer.directory}")
    log.info(
        f"{len(prepared.train)} training and {len(prepared.validation)} validation frames, elements "
        f"{' '.join(model.type_names)}, {numbers.avg_num_neighbors:.1f} neighbours within {model.r_max} A, "
        f"force rms {numbers.forces_rms:.4g} eV/A"
    )
    energies = zip(model.type_names, model.per_type("per_type_energy_shifts", 0.0))
    shifts = ", ".join(f"{symbol} {energy:.4f}" for symbol, energy in energies)
    log.info(f"energies of isolated atoms (eV): {shifts}")
    log.info(
        f"{weights} weights in {model.dtype}, {trainer.steps_per_epoch} steps per epoch, "
        f"{processes.size} process(es) with {torch.get_num_threads()} thread(s)"
    )


@contextlib.contextmanager
def run_log(directory: Path, processes: Processes, terminal: bool = True) -> Iterator[None]:
    """The run's log in the directory's train.log and, with `terminal`, wherever the program shows what
    `uqforce` logs; from the first process only.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log.setLevel(logging.DEBUG)
    log.propagate, before = processes.first and terminal, log.propagate
    handler: logging.Handler = logging.NullHandler()
    if processes.first:
        handler = logging.FileHandler(directory / "train.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    try:
        yield
    except Exception as error:
        log.debug(f"stopped: {error}")
        raise
    finally:
        log.propagate = before
        log.removeHandler(handler)
        handler.close()

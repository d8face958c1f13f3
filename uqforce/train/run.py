"""`uqforce train`: from a configuration to a trained model and its report."""

from __future__ import annotations

import ctypes
import logging
import platform
import sys
import time
from pathlib import Path

import torch
import yaml

from uqforce.model import Potential, load_model
from uqforce.train import checkpoint
from uqforce.train.config import TrainConfig
from uqforce.train.distributed import Processes
from uqforce.train.loop import Trainer, log
from uqforce.train.prepare import Prepared, prepare
from uqforce.train.report import write_report
from uqforce.train.start import start_from


def train(config: TrainConfig, trust: bool = False, allow_changed_config: bool = False) -> Path:
    """Train as configured, resuming where `config.output` holds a checkpoint. Returns the best model's path.

    Writes into the output directory: config.yaml, train.log, metrics.csv, checkpoint.pt and its backup,
    best.uqf (lowest validation loss), last.uqf, report.txt, report.json, parity.png, learning_curves.png.

    Raises: ConfigError, DataError, CheckpointError, LossError, TrainingError.
    """
    processes = Processes.start()
    directory = Path(config.output)
    directory.mkdir(parents=True, exist_ok=True)
    handlers = _start_log(directory / "train.log", processes)
    try:
        return _train(config, directory, processes, trust, allow_changed_config)
    except Exception as error:
        log.debug(f"stopped: {error}")
        raise
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
        processes.stop()


def _train(
    config: TrainConfig, directory: Path, processes: Processes, trust: bool, allow_changed_config: bool
) -> Path:
    found = checkpoint.find(directory)
    state = checkpoint.load(found, trust, echo=log.warning) if found else None
    prepared = prepare(config, directory)
    checkpoint.seed_generators(config.seed)
    potential = Potential(prepared.model)
    potential.card = card(config, prepared)
    if config.model.start is not None:
        start_from(potential, config.model.start, config.model.freeze)
    if processes.first:
        checkpoint.remove_leftovers(directory)
    trainer = Trainer(
        config, potential, prepared.train, prepared.validation, directory, prepared.data_hash, processes
    )
    _describe(config, prepared, trainer, processes)
    if state is not None:
        trainer.resume(state, allow_changed_config)
        done = trainer.progress
        log.info(f"resuming from {found}: {done.epoch} epochs and {done.step} steps done")
    if processes.first:
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        checkpoint.write_atomically(directory / "config.yaml", text.encode())
    trainer.fit()
    best, done = directory / "best.uqf", trainer.progress
    log.info(f"{done.epoch} epochs took {done.seconds / 60:.1f} minutes; evaluating")
    if processes.first:
        trainer.save_model("last.uqf")
        sets = {"train": prepared.train, "validation": prepared.validation, **prepared.tests}
        log.info(f"best model {best}, epoch {done.best_epoch}:")
        log.info(write_report(load_model(best), sets, directory))
    processes.wait()
    return best


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


def _start_log(path: Path, processes: Processes) -> list[logging.Handler]:
    """The run's log on the terminal and in the file, from the first process only."""
    log.setLevel(logging.DEBUG)
    log.propagate = False
    if not processes.first:
        handlers: list[logging.Handler] = [logging.NullHandler()]
    else:
        terminal, file = logging.StreamHandler(sys.stdout), logging.FileHandler(path)
        terminal.setLevel(logging.INFO)
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        handlers = [terminal, file]
    for handler in handlers:
        log.addHandler(handler)
    return handlers

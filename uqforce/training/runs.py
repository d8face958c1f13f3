"""`uqforce train`: one model, or the members of an ensemble one after another or in parallel processes.

A member is a training run of its own in member_00, member_01, ...: its configuration is the ensemble's with
another seed (weights and order of frames; the frames themselves are the same), it has its own log, checkpoint
and report, and it is resumed by itself. All share one folder of neighbour lists.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from uqforce.errors import ConfigError, TrainingError
from uqforce.model import Ensemble, load_model, save_model
from uqforce.training.chains import chain_config, draws_of, joined_samples, write_diagnostics
from uqforce.training.config import TrainConfig
from uqforce.training.distributed import Processes
from uqforce.training.loop import log
from uqforce.training.prepare import Prepared, prepare
from uqforce.training.report import write_report
from uqforce.training.single_run import card, run_log, set_up_process, train_model


def train(
    config: TrainConfig | Mapping[str, Any] | str | os.PathLike,
    trust: bool = False,
    allow_changed_config: bool = False,
) -> Path:
    """Train a potential as configured, or resume its training; returns the path of the model file.

    The folder `config.output` gets best.uqf (the model of lowest validation loss), last.uqf, train.log,
    metrics.csv, checkpoint.pt, a report and plots. A run that finds its checkpoint there goes on, bitwise as
    if it had not been interrupted. Of `config.members` models, or of the chains of `config.sampler`, each has
    a folder of its own, and all together are ensemble.uqf.

    Args:
        config: a `TrainConfig`, its fields as a dictionary, or a YAML file (`uqforce template`). Energies eV,
            lengths A.
        trust: read a checkpoint that could run code.
        allow_changed_config: resume although the configuration or the data changed.

    Raises:
        ConfigError: a field is wrong; the message names it, its value and the fix.
        DataError, LossError: frames cannot be read, or lack what the loss asks for.
        CheckpointError: the checkpoint is damaged, or of another run.
        TrainingError: the loss is not finite, or a member failed.

    Example:
        >>> import uqforce
        >>> model = {"r_max": 3.5, "num_layers": 1, "num_features": [4]}
        >>> uqforce.train({"output": "second", "data": {"train": "train.xyz"}, "model": model, "epochs": 2})
        PosixPath('second/best.uqf')
    """
    if isinstance(config, str | os.PathLike):
        config = TrainConfig.load(config)
    elif not isinstance(config, TrainConfig):
        config = TrainConfig.parse(dict(config))
    processes = Processes.start()
    try:
        one = config.members == 1 and config.sampler is None
        one_or_many = train_model if one else train_members
        return one_or_many(config, processes, trust, allow_changed_config)
    finally:
        processes.stop()


def member_config(config: TrainConfig, member: int) -> TrainConfig:
    """The run that trains member 0, 1, ... of an ensemble."""
    output = Path(config.output) / f"member_{member:02d}"
    changed = {"output": str(output), "seed": config.seed + member, "members": 1, "parallel": 1}
    # what the word implies is written down, and a member alone is not what "ensemble" means
    return config.model_copy(update={**changed, "uncertainty": "none"})


def train_members(
    config: TrainConfig, processes: Processes, trust: bool = False, allow_changed_config: bool = False
) -> Path:
    """Train members, or run chains, and join what they leave in ensemble.uqf, whose path is returned.

    Raises: ConfigError for processes of both kinds, members in parallel and `torchrun`'s.
    """
    if config.parallel > 1 and processes.size > 1:
        raise ConfigError(
            f"parallel: {config.parallel} members at a time, but torchrun started {processes.size} processes "
            "for each: leave one out"
        )
    directory = Path(config.output)
    with run_log(directory, processes):
        if config.sampler is None:
            members = [member_config(config, number) for number in range(config.members)]
        else:
            members = [chain_config(config, number) for number in range(config.sampler.chains)]
        names = ", ".join(str(Path(member.output).relative_to(directory)) for member in members)
        log.info(f"{len(members)} run(s), each in a directory of its own: {names}")
        prepared = prepare(config, directory)
        if processes.first:
            for member in members:
                share_data(Path(member.output), directory / "data")
            config.save(directory / "config.yaml")
        processes.wait()
        if config.parallel > 1:
            train_in_processes(members, config.parallel, trust, allow_changed_config)
        else:
            for member in members:
                log.info(f"\n{Path(member.output).name}")
                train_model(member, processes, trust, allow_changed_config, terminal=False)
        path = directory / "ensemble.uqf"
        if processes.first:
            ensemble = joined(config, members, prepared)
            save_model(ensemble, path)
            log.info(f"\nensemble {path}, the mean of its members:")
            log.info(write_report(ensemble, prepared.sets, directory))
            if config.sampler is not None:
                draws = draws_of(ensemble, prepared.validation, len(members))
                log.info(write_diagnostics(draws, members, directory))
        processes.wait()
    return path


def share_data(directory: Path, data: Path) -> None:
    """Let a member use the ensemble's neighbour lists in `data` instead of making its own."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "data").exists():
        (directory / "data").symlink_to(os.path.relpath(data, directory))


def joined(config: TrainConfig, members: Sequence[TrainConfig], prepared: Prepared) -> Ensemble:
    """The members' best models, or the chains' samples, as one.

    Its card says of each what a model's card says of its training.
    """
    if config.sampler is None:
        ensemble = Ensemble([load_model(Path(member.output) / "best.uqf") for member in members])
    else:
        ensemble = joined_samples(members)
    ensemble.card["ensemble"]["training"] = [member.card["training"] for member in ensemble.members]
    ensemble.card |= card(config, prepared)
    return ensemble


def train_in_processes(
    members: Sequence[TrainConfig], parallel: int, trust: bool, allow_changed_config: bool
) -> None:
    """Train members in processes, `parallel` at a time. The others go on where one fails.

    Raises: TrainingError naming the members that failed.
    """
    # a forked process would lack the threads of OpenMP's pool and wait for them
    context = multiprocessing.get_context("spawn")
    waiting, failed = list(members), []
    running: dict[Any, tuple[BaseProcess, str]] = {}
    while waiting or running:
        while waiting and len(running) < parallel:
            member = waiting.pop(0)
            threads = member.threads or max(1, torch.get_num_threads() // parallel)
            settings = (member.model_dump(mode="json"), threads, trust, allow_changed_config)
            process: BaseProcess = context.Process(target=_train_member, args=settings, daemon=True)
            process.start()
            running[process.sentinel] = (process, member.output)
            log.info(f"{Path(member.output).name}: process {process.pid}, see {member.output}/train.log")
        for sentinel in connection.wait(list(running)):
            process, output = running.pop(sentinel)
            process.join()
            if process.exitcode != 0:
                failed.append(f"{Path(output).name} (exit status {process.exitcode}, see {output}/train.log)")
            log.info(f"{Path(output).name}: {'done' if process.exitcode == 0 else 'failed'}")
    if failed:
        raise TrainingError(
            f"{', '.join(failed)}: training failed; the same command goes on where each member stopped"
        )


def _train_member(settings: dict, threads: int, trust: bool, allow_changed_config: bool) -> None:
    """What a member's process does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_up_process(threads)
    member = TrainConfig.parse(settings)
    train_model(member, Processes(), trust, allow_changed_config, terminal=False)


def _end_with_parent() -> None:
    """A member whose parent was killed would run beside the one that a resumed run starts."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)

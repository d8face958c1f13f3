"""The training loop: steps, epochs, validation, checkpoints. Several processes take the steps of one."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from uqforce.data import Batch, Dataset, batches, collate, ordered_batches
from uqforce.errors import TrainingError
from uqforce.model import Potential, save_model
from uqforce.model.predict import evaluating, predict_members
from uqforce.training import checkpoint
from uqforce.training.compiled import CompiledStep
from uqforce.training.config import TrainConfig, config_hash, fixed_fields
from uqforce.training.distributed import Processes
from uqforce.training.epoch_metrics import UNITS, errors, write_metrics
from uqforce.training.loss import PROPERTIES, count_labels, empty_tally, measure_members, total_loss
from uqforce.training.schedule import Schedule

log = logging.getLogger("uqforce.training")


@dataclass
class Progress:
    """Where a run stands: the part of its state that is plain numbers."""

    epoch: int = 0  # epochs completed
    step: int = 0  # steps done within the current epoch
    seconds: float = 0.0  # training time, restarts included
    best_loss: float = math.inf
    best_epoch: int = 0
    epoch_seconds: float = 0.0  # of the current epoch, up to the last checkpoint
    norm_sum: float = 0.0  # of the gradients of the current epoch


class Trainer:
    """One training run in `directory`: construct, `resume` if there is a checkpoint, `fit`.

    `data_hash` stands for the training and validation frames; a checkpoint of other frames is refused.
    """

    def __init__(
        self,
        config: TrainConfig,
        potential: Potential,
        train: Dataset,
        validation: Dataset,
        directory: Path,
        data_hash: str,
        processes: Processes = Processes(),  # noqa: B008  (frozen)
    ):
        self.config, self.potential, self.train, self.validation = config, potential, train, validation
        self.directory, self.data_hash, self.processes = directory, data_hash, processes
        self.steps_per_epoch = math.ceil(len(train) / config.batch_size)
        self.parameters = [p for p in potential.parameters() if p.requires_grad]
        self.optimizer = self._make_optimizer()
        self.schedule = self._make_schedule()
        self.average = (
            AveragedModel(potential, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
            if config.ema is not None
            else None
        )
        self.compiled = self._compile() if config.compile else None
        self.progress = Progress()
        self.tally = empty_tally()  # of the current epoch's training steps
        self.rows: list[dict[str, float]] = []
        self.last_save = time.monotonic()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        options = self.config.optimizer
        kind = torch.optim.AdamW if options.kind == "adamw" else torch.optim.Adam
        return kind(
            self.parameters,
            lr=options.lr,
            betas=options.betas,
            weight_decay=options.weight_decay,
            amsgrad=options.kind == "amsgrad",
            fused=True,
        )

    def _make_schedule(self) -> Schedule:
        return Schedule(self.config.schedule, self.config.optimizer.lr, self.steps_per_epoch)

    def _compile(self) -> CompiledStep:
        start, size = time.perf_counter(), max(2, self.config.batch_size)
        sample = collate([self.train[i % len(self.train)] for i in range(size)])
        compiled = CompiledStep(self.potential, self.config.loss, sample)
        log.info(f"steps compiled in {time.perf_counter() - start:.0f} s")
        return compiled

    def objective(self, terms: Tensor, counts: Tensor) -> Tensor:
        """What a step descends: scalar, linear in this process's loss sums [3], of which `counts` [3] are the
        numbers of entries in the whole batch."""
        return total_loss(terms, counts, self.config.loss)

    @property
    def _project(self) -> bool:
        return self.potential.config.project_net_force

    @property
    def judged(self) -> Potential:
        """The potential that is validated and saved: the running mean of the weights where there is one."""
        return self.average.module if self.average is not None else self.potential

    def fit(self) -> None:
        """Train until `epochs` are done or the time is over."""
        while self.progress.epoch < self.config.epochs:
            if self._out_of_time():
                log.info(f"max_minutes: stopped after epoch {self.progress.epoch} of {self.config.epochs}")
                return
            start = time.perf_counter() - self.progress.epoch_seconds
            self._train_epoch(start)
            validation = self.evaluate(self.validation)
            self._end_epoch(validation, start)

    def _train_epoch(self, start: float) -> None:
        self.potential.train()
        progress = self.progress
        steps = batches(
            self.train,
            self.config.batch_size,
            self.config.seed,
            progress.epoch,
            self.processes.rank,
            self.processes.size,
        )
        # tqdm draws only where a person looks on; the log has a line per epoch either way.
        bar = tqdm(
            total=self.steps_per_epoch,
            initial=progress.step,
            desc=f"epoch {progress.epoch + 1}/{self.config.epochs}",
            leave=False,
            disable=None if self.processes.first else True,
        )
        with bar:
            for step in range(progress.step, self.steps_per_epoch):
                loss = self.train_step(steps[step])
                progress.step = step + 1
                bar.set_postfix_str(f"loss {loss:.3g}", refresh=False)
                bar.update()
                if self._checkpoint_is_due():
                    progress.epoch_seconds = time.perf_counter() - start
                    self.save()

    def train_step(self, frames: list[int]) -> float:
        """One optimiser step on this process's share of a batch. Returns the loss of the whole batch.

        Raises: TrainingError when the loss or the gradient is not finite; the weights are as before the step.
        """
        # A process without a share still walks the same graph, with a frame that counts nothing.
        batch = collate([self.train[i] for i in frames or [0]])
        self.optimizer.zero_grad()
        gradients = self._gradients if self.compiled is None else self._compiled_gradients
        tally = gradients(batch, 1.0 if frames else 0.0)
        self.processes.sum_gradients_(self.parameters)
        norm = self._clip()
        value = total_loss(tally[0], tally[3], self.config.loss).item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            self._stop_not_finite(value, norm, frames)
        lr = self.schedule.lr(self.progress.epoch * self.steps_per_epoch + self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.potential)
        self.tally += tally
        self.progress.norm_sum += norm
        return value

    def _gradients(self, batch: Batch, counted: float) -> Tensor:
        """Gradients of the objective, times `counted`, into the weights; returns the whole batch's tally."""
        of_heads = predict_members(self.potential, batch)
        terms, tally = measure_members(of_heads, batch, self.config.loss, self._project)
        tally = self.processes.sum_(tally * counted)
        # not to the edge vectors, which the forces came from
        self.objective(terms * counted, tally[3]).backward(inputs=self.parameters)
        return tally

    def _compiled_gradients(self, batch: Batch, counted: float) -> Tensor:
        """`_gradients` by the compiled step."""
        counts = self.processes.sum_(count_labels(batch) * counted)
        terms = torch.zeros_like(counts, requires_grad=True)
        (factors,) = torch.autograd.grad(self.objective(terms, counts), terms)
        tally, gradients = self.compiled(batch, factors * counted)
        for parameter, gradient in zip(self.compiled.trained, gradients):
            parameter.grad = gradient
        return self.processes.sum_(tally * counted)

    def _clip(self) -> float:
        limit = self.config.clip if self.config.clip is not None else math.inf
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True))

    def _stop_not_finite(self, loss: float, norm: float, frames: list[int]) -> None:
        kept = checkpoint.find(self.directory)
        raise TrainingError(
            f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}: the loss is {loss} and its "
            f"gradient's norm {norm} (training frames {frames}). "
            + (f"{kept} holds the last good state. " if kept else "No checkpoint was written yet. ")
            + "Lower optimizer.lr, set clip, add schedule.warmup_epochs, or look at these frames' labels"
        )

    def evaluate(self, dataset: Dataset) -> Tensor:
        """Tally [4,3] (see `Measure`) of the judged weights over a dataset, summed over processes."""
        tally, processes = empty_tally(), self.processes
        shares = ordered_batches(
            dataset, self.config.batch_size, rank=processes.rank, world_size=processes.size
        )
        with evaluating(self.judged):
            for batch in shares:
                of_heads = predict_members(self.judged, batch)
                tally += measure_members(of_heads, batch, self.config.loss, self._project).tally
        return self.processes.sum_(tally)

    def _end_epoch(self, validation: Tensor, start: float) -> None:
        progress = self.progress
        row: dict[str, float] = {
            "epoch": progress.epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": progress.norm_sum / self.steps_per_epoch,
            **errors("train", self.tally, self.config),
            **errors("validation", validation, self.config),
            **self._columns(),
        }
        loss = row["validation_loss"]
        if not math.isfinite(loss):
            raise TrainingError(
                f"epoch {progress.epoch + 1}: the validation loss is {loss}; lower optimizer.lr, set clip, "
                "or look at the validation frames' labels"
            )
        self.schedule.end_epoch(loss)
        improved = loss < progress.best_loss
        if improved:
            progress.best_loss, progress.best_epoch = loss, progress.epoch + 1
        progress.epoch, progress.step, progress.epoch_seconds, progress.norm_sum = (
            progress.epoch + 1,
            0,
            0.0,
            0.0,
        )
        self.tally = empty_tally()
        self.rows.append(row)
        if self.processes.first:
            self._keep_model(improved)
        row["seconds"] = time.perf_counter() - start
        progress.seconds += row["seconds"]
        if self.processes.first:
            log.info(self._line(row, improved))
        self.save()

    def _columns(self) -> dict[str, float]:
        """More of an epoch's row in metrics.csv."""
        return {}

    def _keep_model(self, improved: bool) -> None:
        """Write what the epoch that ended leaves."""
        if improved:
            self.save_model("best.uqf")

    def _line(self, row: dict[str, float], improved: bool) -> str:
        parts = [f"epoch {row['epoch']}/{self.config.epochs}", f"lr {row['lr']:.2e}"]
        for part in ("train", "validation"):
            measured = [
                f"{name[0].upper()} {row[f'{part}_{name}_rmse']:.2f} {UNITS[name]}"
                for name in PROPERTIES
                if not math.isnan(row[f"{part}_{name}_rmse"])
            ]
            parts.append(f"{part} loss {row[f'{part}_loss']:.4g} RMSE " + ", ".join(measured))
        return " | ".join(parts) + f" | {row['seconds']:.1f} s" + (" *" if improved else "")

    def save_model(self, name: str) -> None:
        """Write the judged weights; the card says what they were trained on and how well they do."""
        judged, row = self.judged, self.rows[-1]
        reached = {
            key: value for key, value in row.items() if key.startswith("validation") and value == value
        }
        training = {**self.potential.card["training"], "epoch": row["epoch"], **reached}
        judged.card = {**self.potential.card, "training": training}
        save_model(judged, self.directory / name)

    def _out_of_time(self) -> bool:
        if self.config.max_minutes is None or not self.rows:
            return False
        return self.processes.from_first(
            self.progress.seconds + self.rows[-1]["seconds"] > 60.0 * self.config.max_minutes
        )

    def _checkpoint_is_due(self) -> bool:
        if self.progress.step == self.steps_per_epoch:
            return False  # the end of the epoch writes one
        options = self.config.checkpoint
        if options.every_steps is not None and self.progress.step % options.every_steps == 0:
            return True
        late = (
            options.every_minutes is not None
            and time.monotonic() - self.last_save > 60.0 * options.every_minutes
        )
        return late and self.processes.first

    def save(self) -> None:
        """Write the checkpoint, and metrics.csv with the epochs it holds."""
        self.last_save = time.monotonic()
        if not self.processes.first:
            return
        write_metrics(self.directory / "metrics.csv", self.rows)
        checkpoint.save(
            self.directory,
            {
                "config": self.config.model_dump(mode="json"),
                "config_hash": config_hash(self.config),
                "data_hash": self.data_hash,
                "progress": asdict(self.progress),
                "tally": self.tally,
                "rows": self.rows,
                "model": self.potential.state_dict(),
                "ema": self.average.state_dict() if self.average is not None else None,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "rng": checkpoint.rng_state(),
            },
        )

    def resume(self, state: dict, allow_changed_config: bool = False) -> None:
        """Go on from a checkpoint's state.

        Raises: CheckpointError where configuration or frames are not those of the checkpoint, naming each
        changed field; `allow_changed_config` goes on with the new ones.
        """
        changes = self._changes(state)
        if changes and not allow_changed_config:
            raise checkpoint.CheckpointError(
                f"the checkpoint in {self.directory} is of another configuration:\n"
                + "\n".join(f"  {change}" for change in changes)
                + "\nundo the changes, choose another output directory, or go on with --allow-changed-config"
            )
        for change in changes:
            log.warning(f"changed since the checkpoint: {change}")
        self.potential.load_state_dict(state["model"])
        if self.average is not None:
            if state["ema"] is None:
                self.average.module.load_state_dict(state["model"])
            else:
                self.average.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])
        self.tally, self.rows = state["tally"], state["rows"]
        checkpoint.set_rng_state(state["rng"])

    def _changes(self, state: dict) -> list[str]:
        before = fixed_fields(TrainConfig.parse(state["config"], "checkpoint"))
        now = fixed_fields(self.config)
        changes = [
            f"{name}: {before.get(name)!r} in the checkpoint, {now.get(name)!r} now"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if state["data_hash"] != self.data_hash:
            changes.append("data: the training or validation frames are not those of the checkpoint")
        return changes

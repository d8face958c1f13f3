"""Configuration, loss, loop, checkpoints and report of a training run."""

from uqforce.training.checkpoint import CheckpointError
from uqforce.training.config import ConfigError, TrainConfig
from uqforce.training.loop import Trainer, TrainingError
from uqforce.training.loss import LossError
from uqforce.training.runs import train
from uqforce.training.single_run import set_up_process
from uqforce.training.template import template

__all__ = [
    "CheckpointError",
    "ConfigError",
    "LossError",
    "TrainConfig",
    "Trainer",
    "TrainingError",
    "set_up_process",
    "template",
    "train",
]

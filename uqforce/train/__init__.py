"""Configuration, loss, loop, checkpoints and report of a training run."""

from uqforce.train.checkpoint import CheckpointError
from uqforce.train.config import ConfigError, TrainConfig
from uqforce.train.loop import Trainer, TrainingError
from uqforce.train.loss import LossError
from uqforce.train.members import train
from uqforce.train.run import set_up_process
from uqforce.train.template import template

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

"""Configuration, loss, loop, checkpoints and report of a training run."""

from uqforce.training.config import TrainConfig
from uqforce.training.loop import Trainer
from uqforce.training.runs import train
from uqforce.training.single_run import set_up_process
from uqforce.training.template import template

__all__ = [
    "TrainConfig",
    "Trainer",
    "set_up_process",
    "template",
    "train",
]

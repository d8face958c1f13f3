"""What verbs have in common: arguments, options, where they may write, exit statuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from uqforce.errors import ConfigError

EXIT = {"finished": 0, "failed": 1, "usage": 2, "halted": 3, "not finite": 4, "interrupted": 130}


class Pair(click.ParamType):
    """NAME=VALUE."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        name, equals, text = value.partition("=")
        if not (name and equals and text):
            self.fail(f"{value!r} is not of the form {param.metavar if param else self.name}", param, ctx)
        return name, text


def pairs(flag: str, metavar: str, help: str) -> Callable:
    return click.option(flag, type=Pair(), multiple=True, metavar=metavar, help=f"{help}; may be repeated")


def output(help: str, metavar: str = "FILE", required: bool = True) -> Callable:
    return click.option("-o", "--output", metavar=metavar, required=required, help=help)


model_file = click.argument("model", metavar="MODEL")
data_files = click.argument("data", metavar="DATA...", nargs=-1, required=True)
overwrite_flag = click.option("--overwrite", is_flag=True, help="replace what -o names where it exists")
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda, or auto: CUDA where machine and build have it",
)


def changes_a_model(verb: Callable) -> Callable:
    """What a verb takes that computes something from data and stores it in a model."""
    in_place = click.option("--in-place", is_flag=True, help="store it in MODEL itself")
    written = output("model file to write", required=False)
    return model_file(data_files(written(in_place(overwrite_flag(verb)))))


def free(path: str, overwrite: bool) -> str:
    """`path`, where nothing would be lost by writing it. Raises ConfigError."""
    if Path(path).exists() and not overwrite:
        raise ConfigError(f"{path} exists: choose another name for -o, or give --overwrite")
    return path


def destination(model: str, output: str | None, in_place: bool, overwrite: bool) -> str:
    """Where a verb that changes a model writes it. Raises ConfigError."""
    if in_place == (output is not None):
        raise ConfigError("give either -o FILE, the model file to write, or --in-place, to store it in MODEL")
    return model if output is None else free(output, overwrite)


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave: all others keep the defaults of the function that is called."""
    return {name: value for name, value in options.items() if value not in (None, ())}

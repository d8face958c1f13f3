"""A commented YAML configuration, written from the fields' descriptions."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from uqforce.training.config import TrainConfig
from uqforce.training.config_sections import Section, section_of
from uqforce.training.methods import GOVERNED

HEADER = """\
# Training of a uqforce potential: `uqforce train THIS_FILE`.
# {which} with its default; what is left out keeps it. Lengths A, energies eV.
{more}"""
FULL = "# Fields and sections in comments are set by the word of `uncertainty`.\n"
SHORT = "# `uqforce template --full` has every field; the documentation of training is docs/training.md.\n"
USUAL = (
    "output", "uncertainty",
    "data.train", "data.validation", "data.split.validation", "data.test", "data.keys", "data.units",
    "model.preset", "model.start", "model.r_max", "model.num_layers", "model.l_max", "model.num_features",
    "loss.stress.weight",
    "optimizer.lr", "batch_size", "epochs", "max_minutes", "seed", "compile", "threads",
)  # fmt: skip
"""What one usually sets."""


def _scalar(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def _comment(text: str, indent: str) -> str:
    return textwrap.fill(
        " ".join(text.split()), 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )


def _value(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            return None
        return field.json_schema_extra["example"]  # type: ignore[index]
    return value


def _lines(
    section: type[BaseModel], defaults: BaseModel | None, path: str = "", only: tuple[str, ...] = ()
) -> list[str]:
    indent = "  " * path.count(".")
    lines: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if only and not any(f"{wanted}.".startswith(f"{path}{name}.") for wanted in only):
            continue
        value = getattr(defaults, name) if defaults is not None else _value(field)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if not indent:
                lines.append("")
            if inner.__doc__ and inner.__doc__ != Section.__doc__:
                lines.append(_comment(inner.__doc__, indent))
            inside = [f"{indent}{name}:", *_lines(inner, value, f"{path}{name}.", only)]
            governed = not only and any(other.startswith(f"{path}{name}.") for other in GOVERNED)
            lines += _in_comment(inside, indent) if indent and governed else inside
            continue
        lines.append(_comment(field.description, indent))
        plain = list(value) if isinstance(value, tuple) else value
        # given, its default would win over what the word says
        mark = "# " if not only and path + name in GOVERNED and path.count(".") < 2 else ""
        lines.append(f"{indent}{mark}{name}: {_scalar(plain)}")
        if (optional := section_of(inner)) is not None:
            inside = [_comment(optional.__doc__, f"{indent}  "), *_lines(optional, None, f"{path}{name}.")]
            lines += _in_comment(inside, indent)
    return lines


def _in_comment(lines: list[str], indent: str) -> list[str]:
    return [f"{indent}# {line.removeprefix(indent)}" for line in "\n".join(lines).splitlines()]


def template(full: bool = False) -> str:
    """The YAML text of a configuration with each field explained; only `data.train` must be filled in.

    Args:
        full: every field; without, a page of what one usually sets.
    """
    header = HEADER.format(which="Every field" if full else "What one sets", more=FULL if full else SHORT)
    return header + "\n".join(_lines(TrainConfig, None, only=() if full else USUAL)) + "\n"

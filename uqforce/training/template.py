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
# Every field with its default; what is left out keeps it. Lengths A, energies eV.
# Fields and sections in comments are set by the word of `uncertainty`.
"""


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
        return field.json_schema_extra["example"]
    return value


def _lines(section: type[BaseModel], defaults: BaseModel | None, path: str = "") -> list[str]:
    indent = "  " * path.count(".")
    lines: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        value = getattr(defaults, name) if defaults is not None else _value(field)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            if not indent:
                lines.append("")
            if inner.__doc__ and inner.__doc__ != Section.__doc__:
                lines.append(_comment(inner.__doc__, indent))
            inside = [f"{indent}{name}:", *_lines(inner, value, f"{path}{name}.")]
            governed = any(other.startswith(f"{path}{name}.") for other in GOVERNED)
            lines += _in_comment(inside, indent) if indent and governed else inside
            continue
        lines.append(_comment(field.description, indent))
        plain = list(value) if isinstance(value, tuple) else value
        # given, its default would win over what the word says
        mark = "# " if path + name in GOVERNED and path.count(".") < 2 else ""
        lines.append(f"{indent}{mark}{name}: {_scalar(plain)}")
        if (optional := section_of(inner)) is not None:
            inside = [_comment(optional.__doc__, f"{indent}  "), *_lines(optional, None, f"{path}{name}.")]
            lines += _in_comment(inside, indent)
    return lines


def _in_comment(lines: list[str], indent: str) -> list[str]:
    return [f"{indent}# {line.removeprefix(indent)}" for line in "\n".join(lines).splitlines()]


def template() -> str:
    """The YAML text of a complete configuration; only `data.train` must be filled in with a real file."""
    return HEADER + "\n".join(_lines(TrainConfig, None)) + "\n"

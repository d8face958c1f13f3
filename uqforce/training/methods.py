"""The word `uncertainty` of a configuration: what it says of the fields that are not given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_AS_IT_IS = {"kind": "likelihood", "weight": 1.0}
LIKELIHOOD = {"energy": _AS_IT_IS, "forces": _AS_IT_IS}


class Method(NamedTuple):
    """What a word says of a configuration.

    Attributes:
        defaults: of fields that are not given.
        essential: the field that makes a model one of the method, whatever else is given; "" where none does.
        fits: whether a value of it will do.
    """

    defaults: dict[str, Any]
    essential: str = ""
    fits: Callable[[Any], bool] = bool


METHODS: dict[str, Method] = {
    "none": Method({}),
    "coherent": Method(
        {"model": {"noise": "local"}, "loss": LIKELIHOOD},
        "model.noise",
        lambda noise: noise in ("local", "local-deep"),
    ),
    "coherent-total": Method(
        {"model": {"noise": "total"}, "loss": LIKELIHOOD}, "model.noise", lambda noise: noise == "total"
    ),
    "white": Method(
        {"model": {"noise": "white"}, "loss": LIKELIHOOD}, "model.noise", lambda noise: noise == "white"
    ),
    "ensemble": Method({"members": 4}, "members", lambda members: members > 1),
    "heads": Method({"model": {"heads": 8}}, "model.heads", lambda heads: heads is not None and heads > 1),
    "bayes": Method(
        {"model": {"noise": "white"}, "loss": LIKELIHOOD, "ema": None, "sampler": {}},
        "sampler",
        lambda sampler: sampler is not None,
    ),
    "dropout": Method({"model": {"noise": "white", "dropout": 1 / 64}, "loss": LIKELIHOOD}, "model.dropout"),
}
"""Word -> what it says. A new method is a line here."""


def with_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`values` with the entries of `defaults` that are not given, in sections within sections too."""
    merged = dict(values)
    for name, default in defaults.items():
        if name not in values:
            merged[name] = default
        elif isinstance(default, dict) and isinstance(values[name], dict):
            merged[name] = with_defaults(values[name], default)
    return merged


def fields(defaults: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of what `defaults` sets."""
    for name, value in defaults.items():
        if isinstance(value, dict) and value:
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name


GOVERNED = {"epochs", *(name for method in METHODS.values() for name in fields(method.defaults))}
"""Fields whose default some word changes; `epochs` with the sampler, which takes as many as it needs."""


def contradiction(method: str, config: Any) -> str | None:
    """Why a configuration is not of the method that its word names; None where it is."""
    name, value = METHODS[method].essential, config
    if not name:
        return None
    for part in name.split("."):
        value = getattr(value, part)
    if METHODS[method].fits(value):
        return None
    return f"uncertainty: {method} and {name}: {value} contradict each other: leave one out"

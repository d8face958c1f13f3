"""The word `uncertainty` of a configuration: what it says of the fields that are not given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_AS_IT_IS = {"kind": "likelihood", "weight": 1.0}
LIKELIHOOD = {"energy": _AS_IT_IS, "forces": _AS_IT_IS}

METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "coherent": {"model": {"noise": "local"}, "loss": LIKELIHOOD},
    "coherent-total": {"model": {"noise": "total"}, "loss": LIKELIHOOD},
    "white": {"model": {"noise": "white"}, "loss": LIKELIHOOD},
    "ensemble": {"members": 4},
    "heads": {"model": {"heads": 8}},
    "bayes": {"model": {"noise": "white"}, "loss": LIKELIHOOD, "ema": None, "sampler": {}},
    "dropout": {"model": {"noise": "white", "dropout": 1 / 64}, "loss": LIKELIHOOD},
}
"""Word -> the defaults it changes."""

# What makes a model one of the method, whatever else is given: field, and whether a value will do.
ESSENTIAL = {
    "coherent": ("model.noise", lambda noise: noise in ("local", "local-deep")),
    "coherent-total": ("model.noise", lambda noise: noise == "total"),
    "white": ("model.noise", lambda noise: noise == "white"),
    "ensemble": ("members", lambda members: members > 1),
    "heads": ("model.heads", lambda heads: heads is not None and heads > 1),
    "bayes": ("sampler", lambda sampler: sampler is not None),
    "dropout": ("model.dropout", bool),
}


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


GOVERNED = {"epochs", *(name for defaults in METHODS.values() for name in fields(defaults))}
"""Fields whose default some word changes; `epochs` with the sampler, which takes as many as it needs."""


def contradiction(method: str, config: Any) -> str | None:
    """Why a configuration is not of the method that its word names; None where it is."""
    if method not in ESSENTIAL:
        return None
    name, fits = ESSENTIAL[method]
    value = config
    for part in name.split("."):
        value = getattr(value, part)
    if fits(value):
        return None
    return f"uncertainty: {method} and {name}: {value} contradict each other: leave one out"

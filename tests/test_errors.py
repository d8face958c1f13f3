"""What the package raises on purpose is an `UqforceError`: no plain mistake of a user ends in a traceback."""

import ast
from pathlib import Path

from uqforce import errors

PACKAGE = Path(__file__).parents[1] / "uqforce"
LIKE_TORCH = ("ops", "reference")  # rooms that answer wrong tensors as torch does
VALIDATED = ("config.py", "config_sections.py")  # pydantic collects the ValueErrors of its validators


def plain(source: str) -> list[str]:
    """The `ValueError`s and `Exception`s that a module raises itself."""
    calls = [node.exc for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]
    names = [ast.unparse(call.func) for call in calls if isinstance(call, ast.Call)]
    return [name for name in names if name in ("ValueError", "KeyError", "Exception")]


def test_one_class_is_above_all():
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    assert len(classes) > 10
    for error in classes:
        assert error.__doc__, error
        if error is not errors.UqforceError and not issubclass(error, Warning):
            assert issubclass(error, errors.UqforceError), error
            assert any(
                base.__module__ == "builtins" for base in error.__mro__ if base not in (Exception, object)
            )


def test_every_error_of_a_user_is_ours():
    modules = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in LIKE_TORCH]
    found = {path.name: names for path in modules if (names := plain(path.read_text()))}
    assert set(found) <= set(VALIDATED), found
    assert plain("raise ValueError('x')") == ["ValueError"] and not plain("raise DataError('x')")

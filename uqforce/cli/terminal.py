"""One run of the command line: the log and warnings on the terminal, errors as sentences, the exit status."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import click

from uqforce.cli.options import EXIT
from uqforce.cli.verbs import verbs
from uqforce.errors import UqforceError

log = logging.getLogger("uqforce")


class Terminal(logging.Handler):
    """Shows what the library logs: progress on stdout, warnings on stderr, never through a progress bar."""

    def __init__(self, verb: str) -> None:
        super().__init__(logging.INFO)
        self.verb = verb

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        warning = record.levelno >= logging.WARNING
        text = f"uqforce {self.verb}: {record.getMessage()}" if warning else record.getMessage()
        tqdm.write(text, file=sys.stderr if warning else sys.stdout)


@contextlib.contextmanager
def shown(verb: str) -> Iterator[None]:
    """The library's log and warnings on the terminal, as sentences."""
    handler, level = Terminal(verb), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)

    def sentence(message: Warning | str, category: type[Warning], *_: Any) -> None:
        click.echo(f"uqforce {verb}: {message}", err=True)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = sentence  # type: ignore[assignment]
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status. A mistake of the user is answered with a sentence."""
    argv = sys.argv[1:] if argv is None else argv
    verb = next((word for word in argv if not word.startswith("-")), "")
    try:
        with shown(verb):
            status = verbs.main(argv, prog_name="uqforce", standalone_mode=False)
            sys.stdout.flush()
        return status or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"uqforce {verb}: interrupted", err=True)
        return EXIT["interrupted"]
    except BrokenPipeError:  # whoever read our output has seen enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UqforceError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.strerror and error.filename:
            message = f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
        click.echo(f"uqforce {verb}: {message}", err=True)
        return EXIT["failed"]

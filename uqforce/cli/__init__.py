"""The command line, `uqforce VERB`."""

from uqforce.cli.options import EXIT
from uqforce.cli.terminal import main

__all__ = ["EXIT", "main"]

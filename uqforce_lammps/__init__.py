"""`pair_style uqforce` for LAMMPS: the folder of its plugin.

A package of its own: `lmp` imports it at every start, and importing uqforce would load torch there.
"""

from pathlib import Path


def plugin_folder() -> str:
    """Where LAMMPS finds `uqforceplugin.so` (entry point `lammps.plugins`)."""
    return str(Path(__file__).parent)

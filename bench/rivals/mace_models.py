"""A MACE of 128x0e+128x1o with random weights by mace-torch and symmetrix-xl; runs in their environment."""

import json
from collections.abc import Callable
from pathlib import Path

import mace  # noqa: F401  (first: it sets how torch reads the constants of its old e3nn)
import numpy as np
import torch
from e3nn.o3 import Irreps
from mace.calculators import MACECalculator
from mace.modules import RealAgnosticResidualInteractionBlock, ScaleShiftMACE
from remote import made
from symmetrix import Symmetrix
from symmetrix.extract_mace_data import extract_mace_data
from systems import moving, silicon_atoms

CUTOFF = 5.0


def write_model(path: str) -> None:
    """MACE-MP-0's architecture (size medium), random weights."""
    torch.manual_seed(0)
    block = RealAgnosticResidualInteractionBlock
    model = ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=1,
        hidden_irreps=Irreps("128x0e + 128x1o"),
        MLP_irreps=Irreps("16x0e"),
        atomic_energies=np.array([-5.0]),
        avg_num_neighbors=28.0,
        atomic_numbers=[14],
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    torch.save(model, path)


def write_extracted(path: str) -> None:
    Path(path).write_text(json.dumps(extract_mace_data(checkpoint())))


def checkpoint() -> str:
    return made("mace.model", "rivals.mace_models:write_model")


def mace_torch(atoms: int) -> Callable[[], dict]:
    return moving(silicon_atoms(atoms), MACECalculator(checkpoint(), device="cpu", default_dtype="float32"))


def symmetrix_xl(atoms: int) -> Callable[[], dict]:
    """Its default settings, the fastest of those tried; its first call ever compiles for a minute."""
    path = made("mace.json", "rivals.mace_models:write_extracted")
    return moving(silicon_atoms(atoms), Symmetrix(path))

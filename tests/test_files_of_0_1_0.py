"""Files that uqforce 0.1.0 wrote (`files_of_0_1_0/make.py`) still open, with the same numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from uqforce.exporting.opening import load_exported
from uqforce.model import Ensemble, load_model

FOLDER = Path(__file__).parent / "files_of_0_1_0"
EXPECTED = load_file(FOLDER / "expected.safetensors")
CASE = [EXPECTED[name] for name in ("edge_vec", "edge_index", "atom_types", "batch")]


def check(found: dict[str, torch.Tensor], prefix: str) -> None:
    """All that there was, the same but for the rounding of other processors."""
    want = {name.removeprefix(prefix): value for name, value in EXPECTED.items() if name.startswith(prefix)}
    assert want.keys() == found.keys() - {"edge_gradient"}
    for name, value in want.items():
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=1e-10 * scale, msg=lambda t, n=name: n + t
        )


@pytest.mark.parametrize("name", ["local", "total", "ensemble"])
def test_models(name):
    model = load_model(FOLDER / f"{name}.uqf")
    first = model.members[0] if isinstance(model, Ensemble) else model
    assert first.card["author"] == "uqforce 0.1.0"
    check(model(*CASE, 2).as_dict(), f"{name}.")


def test_an_exported_model():
    """Its code calls ops by their schemas of then."""
    module, description = load_exported(FOLDER / "local.pt")
    assert description["uqforce_version"] == "0.1.0"
    n = len(CASE[2])
    with torch.jit.optimized_execution(False):
        check(module(*CASE, 2), "forward.")
        check(module.nll_gradient(*CASE, 2, "max"), "nll_gradient.")
        check(module.domain(*CASE[:3], torch.arange(n), n, False, True), "domain.")

import pytest
import torch

from tests.conftest import DEVICES
from tests.model import systems
from uqforce.model import Potential


@pytest.fixture(params=DEVICES, scope="module")
def on_device(request):
    """evaluate() computes on the CPU, then on a CUDA device where there is one."""
    systems.device = torch.device(request.param)
    yield
    systems.device = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["parity", "no-parity"])
def potential(request) -> Potential:
    return systems.make_potential(parity=request.param, noise="total")

import pytest

from tests.model.systems import make_potential
from uqforce.model import Potential


@pytest.fixture(params=[True, False], ids=["parity", "no-parity"])
def potential(request) -> Potential:
    return make_potential(parity=request.param, noise="total")

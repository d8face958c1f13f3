"""The network is NequIP's: equal weights give nequip 0.19's energies, forces and virials.

The expected values were computed by nequip itself (make_nequip_reference.py).
"""

import json

import pytest
import torch

from tests.model.make_nequip_reference import CASES, PATH, filled_potential
from tests.model.systems import evaluate, random_system


@pytest.mark.parametrize("name", CASES)
def test_equal_weights_equal_results(name):
    expected = {
        key: torch.tensor(v, dtype=torch.float64) for key, v in json.loads(PATH.read_text())[name].items()
    }
    prediction = evaluate(filled_potential(name), random_system([7, 5], periodic=True))
    for key, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(getattr(prediction, key), value, rtol=0, atol=1e-10 * scale)

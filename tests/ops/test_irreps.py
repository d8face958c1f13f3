import pytest
import torch
from e3nn import o3

from uqforce.ops.irreps import from_e3nn, to_e3nn

IRREPS = "3x0e + 2x1o + 5x2e + 1x0o"


def test_round_trip_and_layout():
    x = torch.arange(2 * o3.Irreps(IRREPS).dim).reshape(2, -1)
    inside = from_e3nn(x, IRREPS)
    assert torch.equal(to_e3nn(inside, IRREPS), x)
    assert inside[0, 3:9].tolist() == [3, 6, 4, 7, 5, 8]  # 2x1o: components outermost, channels innermost


def test_wrong_width():
    with pytest.raises(ValueError, match="x has 7 columns but 2x0e has dimension 2"):
        to_e3nn(torch.zeros(1, 7), "2x0e")

import pytest
import torch
from e3nn import o3

from uqforce.reference.wigner_3j import wigner_3j


@pytest.mark.parametrize("l1", range(5))
@pytest.mark.parametrize("l2", range(5))
def test_equals_e3nn(l1, l2):
    for l3 in range(abs(l1 - l2), l1 + l2 + 1):
        expected = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
        torch.testing.assert_close(wigner_3j(l1, l2, l3), expected, rtol=0, atol=1e-14)


def test_triangle_rule():
    with pytest.raises(ValueError, match="triangle rule"):
        wigner_3j(1, 1, 3)

"""Wigner 3j symbols of real spherical harmonics in plain torch, in e3nn's basis and sign convention."""

from functools import cache
from math import factorial, sqrt

import torch
from torch import Tensor


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """The invariant tensor [2 l1 + 1, 2 l2 + 1, 2 l3 + 1], float64, of Frobenius norm 1.

    Equal to `e3nn.o3.wigner_3j`. The SU(2) coefficients (Racah's formula) are taken to the real basis, where
    a factor (-i)^l per index makes them real.

    Raises:
        ValueError: the degrees break the triangle rule.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"({l1}, {l2}, {l3}) break the triangle rule |l1 - l2| <= l3 <= l1 + l2")
    complex_symbols = torch.zeros(2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1, dtype=torch.complex128)
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            complex_symbols[l1 + m1, l2 + m2, l3 + m1 + m2] = _clebsch_gordan(l1, m1, l2, m2, l3)
    bases = _real_basis(l1), _real_basis(l2), _real_basis(l3).conj()
    symbols = torch.einsum("ikn,ij,kl,nm->jlm", complex_symbols, *bases).real
    return symbols / torch.linalg.vector_norm(symbols)


def _clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """<l1 m1 l2 m2 | l3 m1+m2> by Racah's formula, up to a factor that depends on the degrees only."""
    m3 = m1 + m2
    total = 0.0
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        parts = (k, l1 + l2 - l3 - k, l1 - m1 - k, l2 + m2 - k, l3 - l2 + m1 + k, l3 - l1 - m2 + k)
        denominator = 1
        for part in parts:
            denominator *= factorial(part)
        total += (-1) ** k / denominator
    numerator = 1
    for part in (l1 + m1, l1 - m1, l2 + m2, l2 - m2, l3 + m3, l3 - m3):
        numerator *= factorial(part)
    return sqrt(numerator) * total


def _real_basis(l: int) -> Tensor:
    """Rows: complex harmonics m = -l..l; columns: e3nn's real ones."""
    basis = torch.zeros(2 * l + 1, 2 * l + 1, dtype=torch.complex128)
    basis[l, l] = 1
    for m in range(1, l + 1):
        basis[l - m, l + m] = 1 / sqrt(2)
        basis[l - m, l - m] = -1j / sqrt(2)
        basis[l + m, l + m] = (-1) ** m / sqrt(2)
        basis[l + m, l - m] = 1j * (-1) ** m / sqrt(2)
    return (-1j) ** l * basis

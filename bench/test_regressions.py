"""Ours alone under pytest-benchmark, to compare one commit with another on one machine:

    OMP_NUM_THREADS=1 python -m pytest bench/test_regressions.py --benchmark-autosave    # before
    OMP_NUM_THREADS=1 python -m pytest bench/test_regressions.py --benchmark-compare     # after

`--benchmark-compare-fail=min:10%` makes a slow-down an error. Not part of `make test`. `-k NAME` chooses.
"""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

KERNELS = ("force_variance", "gmm_nll", "neighbor_list", "tensor_product_conv")
CASES = [(name, case) for name in KERNELS for case in importlib.import_module(name).cases()]


@pytest.mark.parametrize("name, case", CASES, ids=[f"{name}: {case.name}" for name, case in CASES])
def test_regression(name, case, benchmark):
    benchmark.group = name
    benchmark.extra_info["count"] = case.count
    benchmark(next(iter(case.rivals.values()))())

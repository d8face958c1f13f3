"""The convolution's inference form with its linear map on a CUDA device, float32.

The value, and the derivatives of K cotangents at once.
"""

from collections.abc import Iterator
from functools import partial

import tabulated_conv as layer_bench
import torch
from device_sizes import DEVICE, REHEARSAL, is_there
from timing import Case

REPEAT = 1 if REHEARSAL else 12  # 13 824 silicon atoms with 28 neighbours


def cases() -> Iterator[Case]:
    if not is_there():
        return
    for name in layer_bench.WORKLOADS:
        it = layer_bench.layer(name, torch.float32, REPEAT, DEVICE)
        edges = len(it.edge_vec)
        for k in (0, 1, 2, 4):
            what = "value" if k == 0 else f"{k} cotangents"
            rivals = {"uqforce": partial(layer_bench.ours, k, name, torch.float32, REPEAT, DEVICE)}
            least, title = layer_bench.work(k, it), f"inference form {name}, {what}, {edges} edges"
            yield Case(title, "edge", edges, rivals, work=least, device=DEVICE)

"""Convolutions on a CUDA device, float32: 400 000 edges of 28 per centre.

Each derivative is timed alone, its forward pass done before. e3nn, OpenEquivariance and cuEquivariance get
their own layout of features. Peaks are those of torch's allocator in one call.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial

import tensor_product_conv as conv_bench
import torch
from device_sizes import CHUNK, DEVICE, EDGES, derivatives, is_there
from timing import Case, Work
from torch import Tensor

from uqforce.ops import tensor_product_conv


@cache
def conv_inputs(name: str) -> tuple[list[Tensor], Tensor, tuple]:
    spec, tensors, edge_index = conv_bench.inputs(name, EDGES, torch.float32, DEVICE)
    return tensors, edge_index, spec.flat


def our_conv(name: str, order: int) -> Callable[[], object]:
    tensors, edge_index, flat = conv_inputs(name)
    return derivatives(lambda x, sh, w: tensor_product_conv(x, sh, w, edge_index, flat), tensors, order)


def chunked(product: Callable[..., Tensor], name: str, order: int) -> Callable[[], object]:
    """A rival without a sum over edges of its own, CHUNK edges at a time."""
    (x, sh, weight), (centre, neighbour), _ = conv_inputs(name)

    def conv(rows: slice, x: Tensor, sh: Tensor, weight: Tensor) -> Tensor:
        messages = product(x[neighbour[rows]], sh, weight)
        return x.new_zeros(len(x), messages.shape[1]).index_add(0, centre[rows], messages)

    def run() -> None:
        for start in range(0, EDGES, CHUNK):
            rows = slice(start, start + CHUNK)
            derivatives(partial(conv, rows), [x, sh[rows], weight[rows]], order)()

    return run


def e3nn_conv(name: str, order: int) -> Callable[[], object]:
    return chunked(conv_bench.e3nn_product(name).to(DEVICE, torch.float32), name, order)


def openequivariance_conv(name: str, order: int) -> Callable[[], object]:
    import openequivariance as oeq

    product = conv_bench.e3nn_product(name)
    instructions = [
        (i.i_in1, i.i_in2, i.i_out, i.connection_mode, i.has_weight) for i in product.instructions
    ]
    problem = oeq.TPProblem(
        product.irreps_in1, product.irreps_in2, product.irreps_out, instructions,
        shared_weights=False, internal_weights=False,
    )  # fmt: skip
    conv = oeq.TensorProductConv(problem, deterministic=False)
    tensors, (centre, neighbour), _ = conv_inputs(name)
    return derivatives(lambda x, sh, w: conv(x, sh, w, centre, neighbour), tensors, order)


def cuequivariance_conv(name: str, order: int) -> Callable[[], object]:
    import cuequivariance as cue
    import cuequivariance_torch as cuet

    product = conv_bench.e3nn_product(name)
    irreps = [cue.Irreps("O3", str(i)) for i in (product.irreps_in1, product.irreps_in2, product.irreps_out)]
    conv = cuet.ChannelWiseTensorProduct(
        *irreps, layout=cue.mul_ir, shared_weights=False, internal_weights=False, device=DEVICE
    )
    return chunked(conv, name, order)


def cases() -> Iterator[Case]:
    if not is_there():
        return
    passes = {
        "forward": "forward",
        "backward": "forward+backward",
        "double backward": "forward+backward+double backward",
    }
    for name in conv_bench.WORKLOADS:
        before = Work(0)
        for order, (what, total) in enumerate(passes.items()):
            rivals = {
                "uqforce": partial(our_conv, name, order),
                "OpenEquivariance": partial(openequivariance_conv, name, order),
                "cuEquivariance": partial(cuequivariance_conv, name, order),
                f"e3nn, {CHUNK} at once": partial(e3nn_conv, name, order),
            }
            until = conv_bench.work(total, name, EDGES)
            least, before = Work(until.bytes - before.bytes, until.flops - before.flops), until
            title = f"convolution {name}, {what}, {EDGES} edges"
            yield Case(title, "edge", EDGES, rivals, work=least, target=1, device=DEVICE)

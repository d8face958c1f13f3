"""The convolution against e3nn's TensorProduct with index_add, all derivatives chunk by chunk of edges.

W64 is 64 channels of every irrep up to l = 2, 1920 weights per edge; "preset M" the inner layer of NequIP's
size M. 28 edges per centre, as in silicon within 5 A. Each side gets its own feature layout. What an
allocator that keeps its memory gains, for both: MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from e3nn.o3 import Irreps, TensorProduct
from timing import Case, Work
from torch import Tensor

from uqforce.ops import TensorProductSpec, tensor_product_conv
from uqforce.ops.irreps import to_e3nn
from uqforce.reference.wigner_3j import wigner_3j

EDGES_PER_CENTRE, CENTRES = 28, 200
WORKLOADS = {
    "W64": ("64x0e+64x0o+64x1o+64x1e+64x2e+64x2o", 2),
    "preset M": ("128x0e+64x1o+32x2e", 2),
}


@cache
def inputs(name: str, dtype: torch.dtype) -> tuple[TensorProductSpec, list[Tensor], Tensor]:
    """Spec; x [N, dim], edge_sh [E, 9], edge_weight [E, W]; edge_index [2,E] sorted by centre."""
    irreps, lmax = WORKLOADS[name]
    spec = TensorProductSpec(irreps, lmax, irreps)
    generator = torch.Generator().manual_seed(0)
    edges = CENTRES * EDGES_PER_CENTRE
    centre = torch.arange(CENTRES).repeat_interleave(EDGES_PER_CENTRE)
    # Neighbours are near in memory, as they are in a structure whose atoms are ordered in space.
    offset = torch.randint(-100, 100, (edges,), generator=generator)
    sizes = [(CENTRES, spec.dim_in), (edges, (lmax + 1) ** 2), (edges, spec.weight_numel)]
    tensors = [torch.randn(size, generator=generator, dtype=dtype) for size in sizes]
    return spec, tensors, torch.stack([centre, (centre + offset) % CENTRES])


def e3nn_product(name: str) -> TensorProduct:
    """The same paths with the same weights in the same order, outputs sorted."""
    irreps, lmax = Irreps(WORKLOADS[name][0]), WORKLOADS[name][1]
    sh = Irreps.spherical_harmonics(lmax)
    paths = [
        (i, j, mul, out)
        for i, (mul, ir) in enumerate(irreps)
        for j, (_, ir_sh) in enumerate(sh)
        for out in ir * ir_sh
        if out in irreps
    ]
    sorted_out, order, _ = Irreps([(mul, out) for _, _, mul, out in paths]).sort()
    instructions = [(i, j, order[k], "uvu", True) for k, (i, j, _, _) in enumerate(paths)]
    return TensorProduct(irreps, sh, sorted_out, instructions, shared_weights=False, internal_weights=False)


def forward(function: Callable[..., Tensor], tensors: list[Tensor]) -> Tensor:
    return function(*tensors)


def backward(function: Callable[..., Tensor], tensors: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    return torch.autograd.grad(out, leaves, torch.ones_like(out))


def double_backward(function: Callable[..., Tensor], tensors: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    cotangent = torch.ones_like(out).requires_grad_()
    first = torch.autograd.grad(out, leaves, cotangent, create_graph=True)
    return torch.autograd.grad(first, [*leaves, cotangent], [torch.ones_like(g) for g in first])


def ours(what: Callable, name: str, dtype: torch.dtype) -> Callable[[], object]:
    spec, tensors, edge_index = inputs(name, dtype)
    return lambda: what(lambda x, sh, w: tensor_product_conv(x, sh, w, edge_index, spec.flat), tensors)


def e3nn(what: Callable, chunk: int, name: str, dtype: torch.dtype) -> Callable[[], object]:
    spec, (x, sh, weight), (centre, neighbour) = inputs(name, dtype)
    product = e3nn_product(name).to(dtype)
    features = to_e3nn(x, spec.irreps_in)

    def conv(rows: slice, x: Tensor, sh: Tensor, weight: Tensor) -> Tensor:
        messages = product(x[neighbour[rows]], sh, weight)
        return x.new_zeros(CENTRES, messages.shape[1]).index_add(0, centre[rows], messages)

    def chunks() -> None:
        for start in range(0, len(centre), chunk):
            rows = slice(start, start + chunk)
            what(partial(conv, rows), [features, sh[rows], weight[rows]])

    return chunks


def work(name: str, what: Callable) -> Work:
    """Counted for float32: every tensor once in each pass that has it as an argument or result.

    A path's operations per edge and channel: multiply-adds with the spherical harmonics contracted into one
    matrix of components, one per component of the output with the weight. The backward has three such sums
    (one per argument), the double backward nine (three arguments and the cotangent, two or three terms each).
    """
    spec, (x, sh, weight), edge_index = inputs(name, torch.float32)
    edges, flops = len(sh), 0
    for path in spec.paths:
        used = wigner_3j(path.l1, path.l2, path.l3).abs() > 1e-9
        pairs, components = int(used.any(1).sum()), 2 * path.l3 + 1
        flops += edges * (2 * int(used.sum()) + path.mul * 2 * (pairs + components))
    arguments = 4 * (x.numel() + sh.numel() + weight.numel()) + 8 * edge_index.numel()
    result = 4 * CENTRES * spec.dim_out
    passes = {  # arguments, results, operations
        forward: (1, 1, 1),
        backward: (1 + 2, 1 + 1, 1 + 3),
        double_backward: (1 + 2 + 3, 1 + 1 + 2, 1 + 3 + 9),
    }
    reads, rows, sums = passes[what]
    return Work(bytes=reads * arguments + rows * result, flops=sums * flops)


def cases() -> Iterator[Case]:
    edges = CENTRES * EDGES_PER_CENTRE
    for name in WORKLOADS:
        for what in (forward, backward, double_backward):
            rivals = {"uqforce": partial(ours, what, name, torch.float32)}
            for chunk in (512, 1024, 4096):
                rivals[f"e3nn, {chunk} at a time"] = partial(e3nn, what, chunk, name, torch.float32)
            label = {"backward": "forward+backward", "double_backward": "forward+backward+double backward"}
            title = label.get(what.__name__, what.__name__)
            title, least = f"{name}, {title}, {edges} edges, float32", work(name, what)
            yield Case(title, "edge", edges, rivals, work=least, memory=what is not forward)

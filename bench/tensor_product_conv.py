"""The convolution against e3nn's TensorProduct with index_add, all derivatives chunk by chunk of edges.

W64 is 64 channels of every irrep up to l = 2, 1920 weights per edge; "preset M" the inner layer of NequIP's
size M. 28 edges per centre, as in silicon within 5 A. Each side gets its own feature layout, e3nn also its
best number of edges at a time and, like us, an allocator that keeps its memory. A training step needs all
edges at once: peaks of memory are to be compared with that rival's.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from e3nn.o3 import Irreps, TensorProduct
from remote import MEMORY, remote
from timing import Case, Work
from torch import Tensor

from uqforce.ops import TensorProductSpec, tensor_product_conv
from uqforce.ops.irreps import to_e3nn
from uqforce.reference.wigner_3j import wigner_3j

EDGES_PER_CENTRE, FEW, MANY = 28, 5600, 15008
WORKLOADS = {
    "W64": ("64x0e+64x0o+64x1o+64x1e+64x2e+64x2o", 2),
    "preset M": ("128x0e+64x1o+32x2e", 2),
}


@cache
def inputs(
    name: str, edges: int, dtype: torch.dtype, device: str = "cpu"
) -> tuple[TensorProductSpec, list[Tensor], Tensor]:
    """Spec; x [N, dim], edge_sh [E, 9], edge_weight [E, W]; edge_index [2,E] sorted by centre."""
    irreps, lmax = WORKLOADS[name]
    spec = TensorProductSpec(irreps, lmax, irreps)
    generator = torch.Generator(device).manual_seed(0)
    centres = edges // EDGES_PER_CENTRE
    centre = torch.arange(centres, device=device).repeat_interleave(EDGES_PER_CENTRE)
    # Neighbours are near in memory, as they are in a structure whose atoms are ordered in space.
    offset = torch.randint(-100, 100, (edges,), generator=generator, device=device)
    sizes = [(centres, spec.dim_in), (edges, (lmax + 1) ** 2), (edges, spec.weight_numel)]
    tensors = [torch.randn(size, generator=generator, dtype=dtype, device=device) for size in sizes]
    return spec, tensors, torch.stack([centre, (centre + offset) % centres])


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


def backward_without_weights(function: Callable[..., Tensor], tensors: list[Tensor]) -> tuple[Tensor, ...]:
    *leaves, weight = tensors
    return backward(lambda x, sh: function(x, sh, weight), leaves)


WHATS = {
    "forward": forward,
    "forward+backward": backward,
    "forward+backward without weights": backward_without_weights,
    "forward+backward+double backward": double_backward,
}
TARGETS = {"forward": 60, "forward+backward": 40, "forward+backward+double backward": 25}


def ours(what: str, name: str, edges: int, dtype: str) -> Callable[[], object]:
    spec, tensors, edge_index = inputs(name, edges, getattr(torch, dtype))

    def conv(x: Tensor, sh: Tensor, weight: Tensor) -> Tensor:
        return tensor_product_conv(x, sh, weight, edge_index, spec.flat)

    return lambda: WHATS[what](conv, tensors)


def e3nn(what: str, chunk: int, name: str, edges: int, dtype: str) -> Callable[[], object]:
    """`chunk` edges at a time; their gradients are not added up, which would cost still more."""
    spec, (x, sh, weight), (centre, neighbour) = inputs(name, edges, getattr(torch, dtype))
    product = e3nn_product(name).to(x)
    features = to_e3nn(x, spec.irreps_in)

    def conv(rows: slice, x: Tensor, sh: Tensor, weight: Tensor) -> Tensor:
        messages = product(x[neighbour[rows]], sh, weight)
        return x.new_zeros(len(x), messages.shape[1]).index_add(0, centre[rows], messages)

    def chunks() -> None:
        for start in range(0, edges, chunk):
            rows = slice(start, start + chunk)
            WHATS[what](partial(conv, rows), [features, sh[rows], weight[rows]])

    return chunks


def work(what: str, name: str, edges: int) -> Work:
    """Counted for float32: every tensor once in each pass that has it as an argument or result.

    A path's operations per edge and channel: multiply-adds with the spherical harmonics contracted into one
    matrix of components, one per component of the output with the weight. The backward has three such sums
    (one per argument), the double backward nine (three arguments and the cotangent, two or three terms each).
    """
    irreps, lmax = WORKLOADS[name]
    spec, centres = TensorProductSpec(irreps, lmax, irreps), edges // EDGES_PER_CENTRE
    flops = 0
    for path in spec.paths:
        used = wigner_3j(path.l1, path.l2, path.l3).abs() > 1e-9
        pairs, components = int(used.any(1).sum()), 2 * path.l3 + 1
        flops += edges * (2 * int(used.sum()) + path.mul * 2 * (pairs + components))
    result, weights = 4 * centres * spec.dim_out, 4 * edges * spec.weight_numel
    arguments = 4 * (centres * spec.dim_in + edges * (lmax + 1) ** 2) + weights + 16 * edges
    # bytes of arguments and results, rows of the convolution, sums
    reads, rows, sums = {
        "forward": (arguments, 1, 1),
        "forward+backward": ((1 + 2) * arguments, 1 + 1, 1 + 3),
        "forward+backward without weights": ((1 + 2) * arguments - weights, 1 + 1, 1 + 2),
        "forward+backward+double backward": ((1 + 2 + 3) * arguments, 1 + 1 + 2, 1 + 3 + 9),
    }[what]
    return Work(bytes=reads + rows * result, flops=sums * flops)


def rivals(*case) -> dict[str, Callable]:
    """Each in a process of its own, under both allocators."""
    functions = {"uqforce": ("ours",)}
    functions |= {f"e3nn, {chunk} at once": ("e3nn", chunk) for chunk in (512, 1024, 4096)}
    functions["e3nn, all at once"] = ("e3nn", case[2])
    return {
        name + suffix: remote(
            f"tensor_product_conv:{target}", case[0], *chunk, *case[1:], environment=variables
        )
        for name, (target, *chunk) in functions.items()
        for suffix, variables in MEMORY.items()
    }


def cases() -> Iterator[Case]:
    for name, edges in (("W64", FEW), ("preset M", FEW), ("preset M", MANY)):
        for what in WHATS:
            title, quick = f"{name}, {what}, {edges} edges, float32", name == "W64" and "without" not in what
            case, target = (what, name, edges, "float32"), TARGETS.get(what)
            least = work(*case[:3])
            yield Case(title, "edge", edges, rivals(*case), work=least, target=target, quick=quick)

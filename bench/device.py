"""Kernels and whole models on a CUDA device, float32, at the sizes of large systems; no cases without one.

400 000 edges of 28 per centre for the convolutions, a million atoms for lists and mixtures, 100 000 for
models. Each derivative is timed alone, its forward pass done before. e3nn, OpenEquivariance, cuEquivariance
get their own layout of features; plain torch is what a model without kernels would do. Peaks are those of
torch's allocator in one call.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial

import gmm_nll as mixture_bench
import tensor_product_conv as conv_bench
import torch
from timing import Case, Work
from torch import Tensor

from uqforce.ops import gmm_nll, neighbor_list, tensor_product_conv

DEVICE = "cuda"
EDGES, ATOMS, CHUNK = 400_008, 1_000_000, 1 << 16
LATTICE, CUTOFF = 2.5, 5.4  # A: 56 neighbours in a simple cubic lattice
MODEL_ATOMS = 100_000


@cache
def conv_inputs(name: str) -> tuple[list[Tensor], Tensor, tuple]:
    spec, tensors, edge_index = conv_bench.inputs(name, EDGES, torch.float32, DEVICE)
    return tensors, edge_index, spec.flat


def derivatives(function: Callable[..., Tensor], tensors: list[Tensor], order: int) -> Callable[[], object]:
    """The function's value (order 0), the gradients of it by all tensors (1), or of these gradients (2)."""
    if order == 0:
        return lambda: function(*tensors)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    cotangent = torch.ones_like(out).requires_grad_(order == 2)
    if order == 1:
        return lambda: torch.autograd.grad(out, leaves, cotangent, retain_graph=True)
    first = torch.autograd.grad(out, leaves, cotangent, create_graph=True)
    ones = [torch.ones_like(tensor) for tensor in first]
    return lambda: torch.autograd.grad(first, [*leaves, cotangent], ones, retain_graph=True)


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
    return chunked(conv_bench.e3nn_product(name).to(DEVICE), name, order)


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


def convolutions() -> Iterator[Case]:
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


def lattice(atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """positions [N,3], cell [1,3,3], pbc [1,3] of a shaken simple cubic crystal."""
    n = round(atoms ** (1 / 3))
    axis = torch.arange(n, dtype=torch.float64, device=DEVICE)
    positions = LATTICE * torch.cartesian_prod(axis, axis, axis)
    positions += 0.1 * torch.randn(positions.shape, generator=generator(), dtype=torch.float64, device=DEVICE)
    cell = LATTICE * n * torch.eye(3, dtype=torch.float64, device=DEVICE)[None]
    return positions, cell, torch.ones(1, 3, dtype=torch.bool, device=DEVICE)


def generator() -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(0)


def lists() -> Iterator[Case]:
    inputs = lattice(ATOMS)
    pairs = neighbor_list(*inputs, CUTOFF)[0].shape[1]
    name, least = f"neighbour list, {len(inputs[0])} atoms", Work(bytes=24 * len(inputs[0]) + 64 * pairs)
    rivals = {"uqforce": lambda: lambda: neighbor_list(*inputs, CUTOFF)}
    yield Case(name, "pair", pairs, rivals, work=least, device=DEVICE)


def mixture(function: Callable[..., Tensor], what: Callable, chunk: int, dim: int, components: int):
    """Value or gradient of a mixture, `chunk` atoms at a time."""
    _, parameters = mixture_bench.inputs(dim, components, torch.float32)
    parameters = [tensor.to(DEVICE) for tensor in parameters]
    parts = torch.randn(ATOMS, dim, generator=generator(), device=DEVICE).split(chunk)
    if len(parts) == 1:
        return lambda: what(function, parts[0], parameters)
    return lambda: torch.cat([what(function, part, parameters) for part in parts])


def mixtures() -> Iterator[Case]:
    for dim, components in ((16, 50), (32, 50), (128, 20)):
        for what in (mixture_bench.value, mixture_bench.gradient):
            rivals = {
                "uqforce": partial(mixture, gmm_nll, what, ATOMS, dim, components),
                f"torch, {CHUNK} at a time": partial(
                    mixture, mixture_bench.torch_nll, what, CHUNK, dim, components
                ),
            }
            least = mixture_bench.work(dim, components, torch.float32, what, ATOMS)
            name = f"mixture, {what.__name__}, {ATOMS} atoms, {dim} features, {components} components"
            yield Case(name, "atom", ATOMS, rivals, work=least, device=DEVICE)


def models() -> Iterator[Case]:
    """Energy, forces and virial of an exported model, its neighbour list given."""
    from models import potential

    from uqforce.deploy.export import call, open_model

    positions, cell, pbc = lattice(MODEL_ATOMS)
    edge_index, _, edge_vec = neighbor_list(positions, cell, pbc, 3.9)  # 26 edges per atom
    zeros = torch.zeros(len(positions), dtype=torch.int64, device=DEVICE)
    for size in ("S", "M"):

        def ours(size: str = size) -> Callable[[], object]:
            module, _ = open_model(potential(size), DEVICE)
            return lambda: call(module, edge_vec, edge_index, zeros, zeros, 1)

        rivals = {"uqforce": ours}
        yield Case(f"model {size}, {len(positions)} atoms", "atom", len(positions), rivals, device=DEVICE)


def cases() -> Iterator[Case]:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        return
    for part in (mixtures, lists, convolutions, models):
        yield from part()

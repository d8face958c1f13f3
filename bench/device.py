"""Kernels and whole models on a CUDA device, float32, at the sizes of large systems; no cases without one.

400 000 edges of 28 per centre for the convolutions, a million atoms for lists, mixtures and force variance,
100 000 for models and as many as fit; a training step. Each derivative is timed alone, its forward pass done
before. e3nn, OpenEquivariance, cuEquivariance get their own layout of features; plain torch is what a model
without kernels would do. Peaks are those of torch's allocator in one call.
"""

import time
from collections.abc import Callable, Iterator
from functools import cache, partial

import gmm_nll as mixture_bench
import tabulated_conv as layer_bench
import tensor_product_conv as conv_bench
import torch
import training as training_bench
from models import potential
from timing import Case, Work, cuda_peak_bytes, measure
from torch import Tensor

from uqforce.data import Batch
from uqforce.exporting.opening import call, open_model
from uqforce.ops import force_variance, gmm_nll, neighbor_list, tensor_product_conv

DEVICE = "cuda"
EDGES, ATOMS, CHUNK = 400_008, 1_000_000, 1 << 16
LATTICE, CUTOFF = 2.5, 5.4  # A: 56 neighbours in a simple cubic lattice
MODEL_ATOMS, SIZES = 100_000, ("S", "M")
MEMBERS = 5
REPEAT = 12  # 13 824 silicon atoms with 28 neighbours
TRAINING = (16, 3)  # cells of silicon of 216 atoms
SEARCH_SECONDS = 30


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

    def vesin() -> Callable[[], object]:
        from vesin.torch import NeighborList

        rival, (positions, cell, _) = NeighborList(cutoff=CUTOFF, full_list=True), inputs
        return lambda: rival.compute(positions, cell[0], periodic=True, quantities="ijSD")

    rivals = {"uqforce": lambda: lambda: neighbor_list(*inputs, CUTOFF), "vesin": vesin}
    yield Case(name, "pair", pairs, rivals, work=least, device=DEVICE)


def mixture(function: Callable[..., Tensor], what: Callable, chunk: int, dim: int, components: int):
    """Value or gradient of a mixture, `chunk` atoms at a time."""
    _, parameters = mixture_bench.inputs(dim, components, torch.float32)
    parameters = [tensor.to(DEVICE) for tensor in parameters]
    features = torch.randn(ATOMS, dim, generator=generator(), dtype=torch.float32, device=DEVICE)
    parts = features.split(chunk)
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


def vectors_and_gradients() -> Iterator[Case]:
    """Forces, virial and covariances of MEMBERS gradients of energies and of standard deviations."""
    edges = neighbor_list(*lattice(ATOMS), CUTOFF)
    count = edges.edge_vec.shape[0]
    atoms = round(ATOMS ** (1 / 3)) ** 3
    randn = partial(torch.randn, generator=generator(), dtype=torch.float32, device=DEVICE)
    gradients = [randn(MEMBERS, count, 3) for _ in range(2)]
    zeros = torch.zeros(atoms, dtype=torch.int64, device=DEVICE)
    variance = torch.ones(MEMBERS, 1, dtype=torch.float32, device=DEVICE)
    arguments = [edges.edge_index, edges.edge_vec.float(), *gradients, variance, 1.0, zeros, 1]
    least = Work(bytes=count * (16 + 12 + 24 * MEMBERS))
    rivals = {"uqforce": lambda: lambda: force_variance(*arguments)}
    yield Case(
        f"force variance, {count} edges, {MEMBERS} members", "edge", count, rivals, work=least, device=DEVICE
    )


def inference() -> Iterator[Case]:
    """The convolution's inference form with its linear map: value, and K cotangents at once."""
    for name in layer_bench.WORKLOADS:
        it = layer_bench.layer(name, torch.float32, REPEAT, DEVICE)
        edges = len(it.edge_vec)
        for k in (0, 1, 2, 4):
            what = "value" if k == 0 else f"{k} cotangents"
            rivals = {"uqforce": partial(layer_bench.ours, k, name, torch.float32, REPEAT, DEVICE)}
            least, title = layer_bench.work(k, it), f"inference form {name}, {what}, {edges} edges"
            yield Case(title, "edge", edges, rivals, work=least, device=DEVICE)


@cache
def module_of(size: str) -> torch.nn.Module:
    """An exported model whose mixture has 20 components."""
    ours = potential(size)
    dim = ours.network.num_last_features
    normal = torch.randn(20, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    identity = torch.eye(dim, dtype=torch.float64).expand(20, dim, dim)
    ours.set_mixture(normal, identity.clone(), torch.full((20,), 1 / 20, dtype=torch.float64).log())
    return open_model(ours, DEVICE)[0]


def model(size: str, atoms: int) -> tuple[Callable[[], object], int]:
    """Energy, forces, virial and scores, the list given (26 edges per atom), and of how many atoms."""
    positions, cell, pbc = lattice(atoms)
    edge_index, _, edge_vec = neighbor_list(positions, cell, pbc, 3.9)
    zeros = torch.zeros(len(positions), dtype=torch.int64, device=DEVICE)
    module = module_of(size)
    return lambda: call(module, edge_vec, edge_index, zeros, zeros, 1), len(positions)


def models() -> Iterator[Case]:
    for size in SIZES:
        function, atoms = model(size, MODEL_ATOMS)
        rivals = {"uqforce": lambda function=function: function}
        yield Case(f"model {size}, {atoms} atoms", "atom", atoms, rivals, device=DEVICE)


def training() -> Iterator[Case]:
    """A step of a batch of silicon: forward, loss of energy and forces, backward, Adam."""
    cells, repeat = TRAINING
    types, on_host = training_bench.crystals(cells, repeat)
    batch = Batch(*(part.to(DEVICE) if isinstance(part, Tensor) else part for part in on_host))
    atoms = len(batch.positions)

    def ours(size: str) -> Callable[[], float]:
        return training_bench.our_step(training_bench.untrained(types, batch, size), batch)

    def nequip(size: str) -> Callable[[], float]:
        return training_bench.nequip_step(training_bench.untrained(types, batch, size), batch, "eager")

    for size in SIZES:
        rivals = {"uqforce": partial(ours, size), "nequip, eager": partial(nequip, size)}
        yield Case(f"training step {size}, {atoms} atoms", "atom", atoms, rivals, device=DEVICE)


def largest() -> Iterator[Case]:
    """The largest system that fits: half as many atoms again, until memory or the time for it ends."""
    for size in SIZES:
        start, atoms, rows, end = time.perf_counter(), MODEL_ATOMS, [], "no time for more"
        while not rows or time.perf_counter() - start + 6e-3 * rows[0]["median_ms"] < SEARCH_SECONDS:
            try:
                function, count = model(size, atoms)
                peak, (seconds, computed) = cuda_peak_bytes(function), measure(function)
            except torch.OutOfMemoryError:
                end = "half as many again do not fit"
                break
            milliseconds = dict.fromkeys(("median_ms", "min_ms", "max_ms"), 1e3 * seconds)
            memory = {"peak_mb": peak / 1e6, "peak_bytes_per_atom": peak / count}
            row = {"rival": "uqforce", **milliseconds, "cpu_ms": 1e3 * computed, "calls": 1, **memory}
            rows, atoms = [row | {"ns_per_atom": 1e9 * seconds / count}], round(1.5 * atoms)
        if rows:
            title = f"largest model {size}, {count} atoms; {end}"
            yield Case(title, "atom", count, {}, device=DEVICE, measured=rows)


def cases() -> Iterator[Case]:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        return
    for part in (convolutions, models, mixtures, lists, inference, vectors_and_gradients, training, largest):
        yield from part()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()

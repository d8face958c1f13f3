"""The convolution's inference form against the layer it stands for: radial network, convolution, linear map.

W64 is 64 channels of every irrep up to l = 2, 1920 weights per edge; "preset M" the inner layer of NequIP's
size M. Silicon of 512 atoms, 28 neighbours within 5 A. The rivals are given spherical harmonics and radial
basis, so their gradients end there, while ours go on to the edge vectors. Derivatives are of K cotangents at
once; the rivals take one after the other. Counted operations: the spline's six terms per weight (twelve with
the slope), the tensor product as in tensor_product_conv, and the linear map.

The radial functions are evaluated for every directed edge, not once for the two of a pair. In this silicon a
third of the edges have their reverse in the same block of 24 atoms, whose rows are in the cache: sharing
would spare a sixth of the spline, itself 4.0 of the 10.8 us/atom of preset M's inner layer (perf), 6 % of
the value, and keep 3 KB of weights for each pair meanwhile. Beyond a block those weights would come from
memory, which is what this form avoids.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from e3nn.o3 import Irreps
from systems import silicon, tensors
from tensor_product_conv import WORKLOADS, e3nn_product
from timing import Case, Work
from torch import Tensor

from uqforce.model.linear import ScalarMLP
from uqforce.ops import (
    BlockSpec,
    TensorProductSpec,
    block_linear,
    neighbor_list,
    radial_table,
    tabulated_conv,
    tabulated_conv_vjp,
    tensor_product_conv,
)
from uqforce.ops.irreps import to_e3nn
from uqforce.reference.tabulated_conv import spherical_harmonics
from uqforce.reference.wigner_3j import wigner_3j

CUTOFF, BESSELS, WIDTH, INTERVALS = 5.0, 8, 128, 96


class Layer:
    """A layer with random weights, its input, and the geometry of silicon of `repeat`^3 cells of 8 atoms."""

    def __init__(self, name: str, dtype: torch.dtype, repeat: int = 4, device: str = "cpu") -> None:
        torch.manual_seed(0)
        irreps, l_max = WORKLOADS[name]
        self.spec = TensorProductSpec(irreps, l_max, irreps)
        gates = Irreps(irreps).num_irreps - Irreps(irreps).count("0e") - Irreps(irreps).count("0o")
        wanted = (Irreps(irreps) + f"{gates}x0e").sort().irreps.simplify()
        self.map = BlockSpec(self.spec.irreps_out, wanted, fan=0)
        network = ScalarMLP([BESSELS, WIDTH, self.spec.weight_numel], torch.float64).requires_grad_(False)
        frequencies = torch.arange(1, BESSELS + 1, dtype=torch.float64)

        def basis(x: Tensor) -> Tensor:
            return torch.sinc(x * frequencies) * frequencies * (1 - x).clamp(min=0) ** 3

        positions, cell, pbc = tensors(silicon(repeat))
        edges = neighbor_list(positions, cell, pbc, CUTOFF)
        length = edges.edge_vec.norm(dim=1, keepdim=True)
        self.edge_index, self.edge_vec = edges.edge_index, edges.edge_vec.to(dtype)
        self.edge_sh = spherical_harmonics(edges.edge_vec / length, l_max).to(dtype)
        self.edge_basis = basis(length / CUTOFF).to(dtype)
        self.table = radial_table(lambda x: network(basis(x)), self.spec, INTERVALS)[0].to(dtype)
        self.network = network.to(dtype)
        self.atom_types = torch.zeros(len(positions), dtype=torch.int64)
        self.cutoffs = torch.full((1, 1), CUTOFF, dtype=dtype)
        self.linear = torch.randn(self.map.weight_numel, dtype=dtype) / self.spec.dim_out**0.5
        self.x = torch.randn(len(positions), self.spec.dim_in, dtype=dtype)
        for key, value in vars(self).items():
            if isinstance(value, (Tensor, torch.nn.Module)):
                setattr(self, key, value.to(device))

    def tabulated(self) -> list:
        geometry = [self.x, self.edge_vec, self.edge_index, self.atom_types, self.cutoffs, self.table]
        return [*geometry, self.linear, self.spec.flat, self.map.flat]

    def cotangents(self, k: int) -> Tensor:
        return torch.randn(k, len(self.x), self.map.dim_out, dtype=self.x.dtype, device=self.x.device)


layer = cache(Layer)


def ours(k: int, *layer_arguments) -> Callable[[], object]:
    """The value, and with k > 0 the derivatives of k cotangents."""
    it = layer(*layer_arguments)
    arguments = it.tabulated()
    if k == 0:
        return lambda: tabulated_conv(*arguments)
    cotangents, transposed = it.cotangents(k), it.map.transpose(it.linear)
    backward = [cotangents, *arguments[:6], transposed, *arguments[7:]]
    return lambda: tabulated_conv_vjp(*backward)


def apart(convolution: Callable, k: int, name: str, dtype: torch.dtype) -> Callable[[], object]:
    """Network, convolution and linear map one after the other, derivatives by autograd."""
    it = layer(name, dtype)
    convolve = convolution(name, it)

    def value(x: Tensor, sh: Tensor, basis: Tensor) -> Tensor:
        return block_linear(convolve(x, sh, it.network(basis)), it.linear[None], None, it.map.flat)

    inputs = [it.x, it.edge_sh, it.edge_basis]
    if k == 0:
        return lambda: value(*inputs)
    cotangents = it.cotangents(k)

    def derivatives() -> None:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        out = value(*leaves)
        for cotangent in cotangents:
            torch.autograd.grad(out, leaves, cotangent, retain_graph=True)

    return derivatives


def fused(name: str, it: Layer) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x, sh, weight: tensor_product_conv(x, sh, weight, it.edge_index, it.spec.flat)


def e3nn(name: str, it: Layer) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """e3nn's product in its own layout; the linear map that follows costs it as much as us."""
    product, (centre, neighbour) = e3nn_product(name).to(it.x.dtype), it.edge_index

    def convolve(x: Tensor, sh: Tensor, weight: Tensor) -> Tensor:
        messages = product(to_e3nn(x, it.spec.irreps_in)[neighbour], sh, weight)
        return x.new_zeros(len(x), messages.shape[1]).index_add(0, centre, messages)

    return convolve


def work(k: int, it: Layer) -> Work:
    products = 0
    for path in it.spec.paths:
        pairs = int((wigner_3j(path.l1, path.l2, path.l3).abs() > 1e-12).any(1).sum())
        products += path.mul * (2 * path.l1 + 1 + 2 * pairs)
    edges, atoms, dim = len(it.edge_vec), len(it.x), it.x.shape[1]
    linear = 2 * sum(b.components * b.mul_in * b.mul_out for b in it.map.blocks)
    spline, width = 12 * it.spec.weight_numel, it.x.dtype.itemsize
    if k == 0:
        flops, rows = edges * (spline + products) + atoms * linear, atoms * (dim + it.map.dim_out)
    else:
        flops = edges * (2 * spline + k * 3 * products) + k * atoms * linear
        rows = atoms * (dim + k * (dim + it.map.dim_out)) + 3 * k * edges
    return Work(width * (rows + 3 * edges), flops, str(it.x.dtype).removeprefix("torch."))


def cases() -> Iterator[Case]:
    for name in WORKLOADS:
        for dtype in (torch.float32, torch.float64) if name == "preset M" else (torch.float32,):
            for k in (0, 1, 4, 16) if dtype == torch.float32 else (0, 1):
                what = "value" if k == 0 else f"derivatives of {k} cotangent{'s' * (k > 1)}"
                rivals = {"uqforce": partial(ours, k, name, dtype)}
                if k <= 1:  # the rivals' time is theirs for one, k times over
                    rivals["uqforce, apart"] = partial(apart, fused, k, name, dtype)
                    rivals["e3nn, apart"] = partial(apart, e3nn, k, name, dtype)
                it = layer(name, dtype)
                count = len(it.edge_vec) * max(k, 1)
                title = f"{name}, {what}, {str(dtype).removeprefix('torch.')}"
                yield Case(title, "edge", count, rivals, None, work(k, it), quick=k <= 1)

"""Every op once, on small inputs that are awkward for kernels: the list that smoke.py and each_op.py share.

Odd multiplicities (1, 3, 5, 33), edges in no order, several cotangents, an atom without neighbours. Inputs
are made on the CPU, so that every device gets the same numbers. `ghost_exchange` needs the ranks of LAMMPS
and is not among them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from uqforce.ops import (
    BlockSpec,
    GateSpec,
    TensorProductSpec,
    block_linear,
    edge_embedding,
    edge_vectors,
    force_variance,
    gate,
    gmm_nll,
    neighbor_list,
    radial_interpolation,
    tabulated_conv,
    tabulated_conv_vjp,
    tensor_product_conv,
    type_weights,
)
from uqforce.ops.gate import second_moment_factor

NODES, TYPES = 12, 3
ODD = "1x0e + 3x0o + 5x1o + 33x1e + 1x2e"


@dataclass
class OpCall:
    """An op with its arguments.

    Attributes:
        name: of the op, and of what is special.
        function: of the tensors; returns tensors.
        tensors: on the CPU; those of floating type in the dtype asked for.
        leaves: positions of the tensors by which derivatives are taken.
        order: how many times.
    """

    name: str
    function: Callable[..., Tensor | tuple[Tensor, ...]]
    tensors: list[Tensor]
    leaves: tuple[int, ...] = ()
    order: int = 0

    def results(
        self, device: torch.device | str, say: Callable[[str], None] = lambda what: None
    ) -> list[Tensor]:
        """Values; gradients of them; gradients of these: on a device. `say` is told what comes next."""
        say("forward")
        inputs = [tensor.to(device) for tensor in self.tensors]
        for k in self.leaves:
            inputs[k].requires_grad_(self.order > 0)
        found = function_results(self.function, inputs)
        every, wanted = list(found), [inputs[k] for k in self.leaves]
        for turn in range(self.order):
            say(("backward", "double backward")[turn])
            differentiable = [t for t in found if t.requires_grad]
            cotangents = [like(t, turn).requires_grad_() for t in differentiable]
            more = turn + 1 < self.order
            found = torch.autograd.grad(
                differentiable, wanted, cotangents, create_graph=more, allow_unused=True
            )
            found = [t for t in found if t is not None]
            wanted = [*wanted, *cotangents]
            every += found
        return [t.detach() for t in every]


def function_results(function: Callable, inputs: list[Tensor]) -> list[Tensor]:
    out = function(*inputs)
    return [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)]


def like(tensor: Tensor, seed: int) -> Tensor:
    """Random numbers of its shape, the same ones on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)


def op_calls(dtype: torch.dtype, edges: int = 100) -> list[OpCall]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def integers(below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=generator)

    edge_index = integers(NODES - 1, 2, edges)  # in no order; the last atom has no neighbour
    types, edge_vec = integers(TYPES, NODES), random(edges, 3)
    batch = torch.arange(NODES) * 2 // NODES
    positions = 6 * torch.rand(NODES, 3, generator=generator, dtype=torch.float64)
    cell = (6 * torch.eye(3, dtype=torch.float64) + 0.3).expand(2, 3, 3).contiguous()
    pbc = torch.tensor([[True, True, False], [True, False, True]])
    listed = neighbor_list(positions, cell, pbc, 4.0, batch)
    both = (batch, listed.edge_index, listed.cell_shift)

    convolution = TensorProductSpec(ODD, 2, ODD)
    flat = convolution.flat
    linear = BlockSpec(convolution.irreps_out, "5x0e + 33x1o + 3x2e", fan=0)
    weights = BlockSpec(ODD, "33x0e + 1x1o + 5x1e", fan=TYPES)
    gates = GateSpec("33x0e + 3x0o", "5x1o + 1x2e")
    factors = second_moment_factor("silu"), second_moment_factor("tanh")
    cutoffs, table = 2 + random(TYPES, TYPES).abs(), random(15 * convolution.weight_numel)
    map_weights = random(linear.weight_numel)
    x = random(NODES, convolution.dim_in)
    dim, components = 33, 5
    triangular = 0.1 * random(components, dim, dim).triu(1) + torch.eye(dim, dtype=dtype)
    mixture = [random(components, dim), triangular, random(components).log_softmax(0)]
    members = 3

    def vectors(positions: Tensor, cell: Tensor, batch: Tensor, index: Tensor, shift: Tensor) -> Tensor:
        return edge_vectors(positions, cell, index, shift, batch)

    def search(positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor) -> tuple[Tensor, ...]:
        return tuple(neighbor_list(positions, cell, pbc, 4.0, batch))

    def interpolate(table: Tensor, slope: Tensor, x: Tensor) -> Tensor:
        return radial_interpolation(table, slope, x)

    def variances(
        mode: str,
        index: Tensor,
        vec: Tensor,
        of_energy: Tensor,
        of_sigma: Tensor,
        variance: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, ...]:
        return tuple(force_variance(index, vec, of_energy, of_sigma, variance, 1.5, batch, 2, mode))

    calls = [
        OpCall("neighbor_list", search, [positions, cell, pbc, batch]),
        OpCall("edge_vectors", vectors, [positions.to(dtype), cell.to(dtype), *both], (0, 1), 1),
        OpCall("edge_embedding", partial_last(edge_embedding, 2), [edge_vec, random(edges).abs()], (0,), 2),
        OpCall(
            "gate", partial_last(gate, gates.flat, *factors), [random(NODES, gates.irreps_in.dim)], (0,), 2
        ),
        OpCall(
            "type_weights",
            partial_last(type_weights, weights.flat),
            [random(TYPES, 5), random(5 * weights.weight_numel)],
            (0, 1),
            2,
        ),
        OpCall(
            "radial_interpolation",
            interpolate,
            [random(20, 33), random(20, 33), 1.1 * random(edges, 1).sigmoid()],
            (0, 1, 2),
            2,
        ),
        OpCall("gmm_nll", gmm_nll, [random(NODES, dim), *mixture], (0,), 2),
        OpCall(
            "tensor_product_conv",
            partial_last(tensor_product_conv, flat),
            [x, random(edges, 9), random(edges, convolution.weight_numel), edge_index],
            (0, 1, 2),
            2,
        ),
        OpCall(
            "tabulated_conv",
            partial_last(tabulated_conv, flat, linear.flat),
            [x, edge_vec, edge_index, types, cutoffs, table, map_weights],
            (0, 1),
            1,
        ),
    ]
    for transposed in (False, True):
        columns = weights.dim_out if transposed else weights.dim_in
        name = f"block_linear{', transposed' * transposed}"
        inputs = [random(NODES, columns), random(TYPES, weights.weight_numel), types]
        function = partial_last(block_linear, weights.flat, transposed)
        calls.append(OpCall(name, function, inputs, (0, 1), 2))
    for k in (1, 2, 3, 4):
        inputs = [random(k, NODES, linear.dim_out), x, edge_vec, edge_index, types, cutoffs, table]
        inputs.append(linear.transpose(map_weights))
        function = partial_last(tabulated_conv_vjp, flat, linear.flat)
        calls.append(OpCall(f"tabulated_conv_vjp, {k} cotangents", function, inputs))
    for mode in ("total", "local"):
        variance = random(members, 2 if mode == "total" else NODES).square()
        gradients = [random(members, edges, 3) for _ in range(2)]
        inputs = [edge_index, edge_vec, *gradients, variance, batch]
        calls.append(OpCall(f"force_variance, {mode}", partial(variances, mode), inputs, (1, 2, 3, 4), 2))
    return calls


def partial_last(function: Callable, *last: object) -> Callable:
    return lambda *first: function(*first, *last)

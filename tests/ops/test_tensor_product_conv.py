"""The convolution: its case of the six tests, and its equality with e3nn's tensor product."""

import random
from functools import partial

import pytest
import torch
from e3nn import o3

from tests.ops.op_case import OpCase, assert_close, derivatives
from uqforce.ops.irreps import from_e3nn, to_e3nn
from uqforce.ops.tensor_product_conv import TensorProductSpec, tensor_product_conv
from uqforce.reference.tensor_product_conv import tensor_product_conv as reference_conv

TINY = TensorProductSpec("2x0e + 1x1o", 1, "0e + 1o + 1e")
SMALL = TensorProductSpec("5x0e + 3x0o + 2x1o + 17x1e + 1x2e", 2, "0e + 1o + 1e + 2e + 2o")
HIGH = TensorProductSpec("2x3o + 1x4e", 4, "0e + 1o + 2e + 3o + 3e + 4e")
WIDE = TensorProductSpec("40x0e + 33x1o", 1, "0e + 1o")  # whole vectors and tails of every instruction set
SPECS = {"tiny": TINY, "small": SMALL, "high": HIGH, "wide": WIDE}


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


def random_graph(nodes, edges, device="cpu", generator=None):
    """Edges sorted by centre, self-edges and repeated edges among them."""
    index = torch.randint(max(nodes, 1), (2, edges), generator=generator)
    index[0] = index[0].sort().values
    return index.to(device)


def random_inputs(spec, nodes, edges, dtype, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(nodes, spec.dim_in), (edges, spec.irreps_sh.dim), (edges, spec.weight_numel)]
    tensors = [torch.randn(shape, dtype=dtype, generator=generator).to(device) for shape in shapes]
    return *tensors, random_graph(nodes, edges, device, generator)


def inputs(spec, nodes, edges):
    return *random_inputs(spec, nodes, edges, torch.float64), spec.flat


def calls(x, sh, weight, edge_index, flat):
    """Every schema of the convolution, with arguments of its own."""
    grad = torch.randn_like(tensor_product_conv(x, sh, weight, edge_index, flat))
    for cotangents in ((x, sh, weight), (x, None, None)):
        arguments = (*cotangents, grad, x, sh, weight, edge_index, flat, [True] * 4)
        yield "tensor_product_conv_double_backward", arguments
    x, sh, weight, grad = (t.clone().requires_grad_() for t in (x, sh, weight, grad))
    yield "tensor_product_conv", (x, sh, weight, edge_index, flat)
    for needs in ([True] * 3, [False, True, False]):
        yield "tensor_product_conv_backward", (grad, x, sh, weight, edge_index, flat, needs)


EVERY_DEGREE = [(1, (l, p)) for l in range(5) for p in (1, -1)]
OP_CASES = [
    OpCase(
        tensor_product_conv,
        reference_conv,
        differentiable=(0, 1, 2),
        samples={name: partial(inputs, spec, 7, 60) for name, spec in SPECS.items()},
        elsewhere={
            irreps: partial(inputs, TensorProductSpec(irreps, 4, EVERY_DEGREE), 5, 80)
            for irreps in ("40x0e + 33x1o + 5x2e", "3x4e + 17x3o + 1x1e")
        },
        tiny={
            "tiny": partial(inputs, TINY, 3, 5),
            "l = 2": partial(inputs, TensorProductSpec("2x1o + 1x2e", 2, "1o + 2e"), 3, 5),
        },
        edges={
            # no atoms, one atom, self-edges only, no neighbours, many edges per atom
            f"{nodes} nodes {edges} edges": partial(inputs, SMALL, nodes, edges)
            for nodes, edges in ((0, 0), (1, 0), (1, 3), (6, 0), (2, 500))
        },
        many={name: partial(inputs, spec, 50, 1500) for name, spec in SPECS.items()},
        called={f"{edges} edges": partial(inputs, TINY, 3, edges) for edges in (0, 5)},
        calls=calls,
        isa_eps=50,
    )
]


def random_case(seed):
    """A spec with degrees up to 4 and tails of every vector length; edges often unsorted, or none."""
    generator = random.Random(seed)

    def irreps(count, multiplicities):
        degrees = range(generator.choice((2, 3, 5)))
        return [
            (generator.choice(multiplicities), (generator.choice(degrees), generator.choice((1, -1))))
            for _ in range(count)
        ]

    while True:
        irreps_in = irreps(generator.randint(1, 4), (1, 2, 3, 5, 8, 13, 16, 17, 32, 40))
        irreps_out = irreps(generator.randint(1, 6), (1,))
        try:
            spec = TensorProductSpec(irreps_in, generator.randint(0, 4), irreps_out)
        except ValueError:  # no path
            continue
        break
    nodes, edges = generator.randint(1, 12), generator.choice((0, 1, 15, 16, 17, 40, 90))
    *tensors, edge_index = random_inputs(spec, nodes, edges, torch.float64, seed=seed)
    if generator.random() < 0.5:
        edge_index = torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(seed))
    return generator, spec, tensors, edge_index


@pytest.mark.parametrize("seed", range(100))
def test_random_specs_equal_reference(seed, device):
    """All three ops; and results that are wanted without the others are the same bits."""
    if device.type == "cuda" and seed >= 20:
        pytest.skip("twenty of them: the reference is slow on a GPU")
    generator, spec, tensors, edge_index = random_case(seed)
    tensors, edge_index = [tensor.to(device) for tensor in tensors], edge_index.to(device)
    arguments = (*tensors, edge_index, spec.flat)
    expected = derivatives(reference_conv, arguments, (0, 1, 2))
    assert_close(derivatives(tensor_product_conv, arguments, (0, 1, 2)), expected, 1e-13)
    grad = torch.randn(tensors[0].shape[0], spec.dim_out, dtype=torch.float64, device=device)
    arguments = (grad, *tensors, edge_index, spec.flat)
    library = torch.ops.uqforce
    cotangents = [torch.randn_like(t) for t in tensors]
    for op, count in (
        (library.tensor_product_conv_backward, 3),
        (partial(library.tensor_product_conv_double_backward, *cotangents), 4),
    ):
        needs = [generator.random() < 0.5 for _ in range(count)]
        for needed, some, every in zip(needs, op(*arguments, needs), op(*arguments, [True] * count)):
            assert torch.equal(some, every) if needed else some.numel() == 0


def test_paths_that_share_some_columns_of_x():
    """Also a column that no path reads: its gradient is 0."""
    paths = [[0, 0, 0, 3, 0, 3, 0, 3, 0], [0, 0, 0, 3, 1, 3, 3, 3, 3], [0, 1, 1, 2, 3, 2, 6, 2, 6]]
    flat = [6, 12, 4, 8, len(paths), *(number for path in paths for number in path)]
    generator = torch.Generator().manual_seed(0)
    sizes = [(5, 6), (30, 4), (30, 8)]
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in sizes]
    edge_index = random_graph(5, 30, generator=generator)
    grad = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    results = [conv(*leaves, edge_index, flat) for conv in (tensor_product_conv, reference_conv)]
    ours, expected = [[out, *torch.autograd.grad(out, leaves, grad)] for out in results]
    assert_close(ours, expected, 1e-13)
    assert ours[1][:, 5].eq(0).all()


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_gradients_of_some_inputs(needed, device):
    """Gradients that are not asked for are not computed, and the others do not change."""
    *tensors, edge_index = random_inputs(SMALL, 4, 20, torch.float64, device)

    def gradients(needed):
        inputs = [t.detach().requires_grad_(k in needed) for k, t in enumerate(tensors)]
        out = tensor_product_conv(*inputs, edge_index, SMALL.flat)
        first = torch.autograd.grad(out.square().sum(), [inputs[k] for k in needed], create_graph=True)
        second = torch.autograd.grad(sum(t.square().sum() for t in first), [inputs[k] for k in needed])
        return dict(zip(needed, first)), second

    every_first, _ = gradients((0, 1, 2))
    some_first, some_second = gradients(needed)
    assert all(torch.equal(some_first[k], every_first[k]) for k in needed)

    def expected(needed):
        inputs = [t.detach().requires_grad_(k in needed) for k, t in enumerate(tensors)]
        out = reference_conv(*inputs, edge_index, SMALL.flat)
        first = torch.autograd.grad(out.square().sum(), [inputs[k] for k in needed], create_graph=True)
        return torch.autograd.grad(sum(t.square().sum() for t in first), [inputs[k] for k in needed])

    assert_close(some_second, expected(needed), 1e-13)


def test_export_keeps_sizes_dynamic():
    class Layer(torch.nn.Module):
        def forward(self, x, sh, weight, edge_index):
            return torch.ops.uqforce.tensor_product_conv(x, sh, weight, edge_index, SMALL.flat)

    nodes, edges = torch.export.Dim("nodes"), torch.export.Dim("edges")
    shapes = ({0: nodes}, {0: edges}, {0: edges}, {1: edges})
    exported = torch.export.export(
        Layer(), random_inputs(SMALL, 4, 20, torch.float32), dynamic_shapes=shapes
    ).module()
    inputs = random_inputs(SMALL, 9, 31, torch.float32)
    assert torch.equal(exported(*inputs), Layer()(*inputs))


def test_more_than_65535_nodes(device):
    nodes = 70_000
    x, sh, weight, edge_index = random_inputs(TINY, nodes, 3 * nodes, torch.float32, device)
    assert edge_index.max() > 65_535
    out = tensor_product_conv(x, sh, weight, edge_index, TINY.flat)
    assert_close([out], [reference_conv(x, sh, weight, edge_index, TINY.flat)], 1e-5)


def test_unsorted_edges(spec, device):
    """All three ops sort inside, stably: the same bits as for edges sorted beforehand."""
    x, sh, weight, edge_index = random_inputs(spec, 7, 60, torch.float64, device)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2)).to(device)
    stable = torch.argsort(edge_index[0, order], stable=True)
    ddx, ddsh, ddw, _ = random_inputs(spec, 7, 60, torch.float64, device, seed=3)
    grad = torch.randn(7, spec.dim_out, dtype=torch.float64, device=device)
    library = torch.ops.uqforce

    def results(order):
        """By node; by edge."""
        edges = (sh[order], weight[order], edge_index[:, order], spec.flat)
        out = library.tensor_product_conv(x, *edges)
        dx, *by_edge = library.tensor_product_conv_backward(grad, x, *edges, [True] * 3)
        cotangents = (ddx, ddsh[order], ddw[order])
        dgrad, second_dx, *more_by_edge = library.tensor_product_conv_double_backward(
            *cotangents, grad, x, *edges, [True] * 4
        )
        return [out, dx, dgrad, second_dx], by_edge + more_by_edge

    by_node, by_edge = results(order)
    expected_by_node, expected_by_edge = results(order[stable])
    assert all(torch.equal(a, b) for a, b in zip(by_node, expected_by_node, strict=True))
    assert all(torch.equal(a[stable], b) for a, b in zip(by_edge, expected_by_edge, strict=True))


@pytest.mark.cpu_kernels
def test_large_weight_gradients_written_past_the_caches(dtype):
    """Rows of whole cache lines, above the size from which they bypass the caches; and rows that are not."""
    for irreps_in in ("32x0e + 32x1o", "32x0e + 33x1o"):
        spec = TensorProductSpec(irreps_in, 1, "0e + 1o + 1e")
        x, sh, weight, edge_index = random_inputs(spec, 300, 15_000, dtype)
        assert weight.nbytes > 8 * 2**20
        grad = torch.randn(300, spec.dim_out, dtype=dtype)
        needs = [False, False, True]
        backward = torch.ops.uqforce.tensor_product_conv_backward
        *_, dw = backward(grad, x, sh, weight, edge_index, spec.flat, needs)
        few = slice(0, 1000)
        *_, expected = backward(grad, x, sh[few], weight[few], edge_index[:, few], spec.flat, needs)
        assert torch.equal(dw[few], expected)
        leaf = weight.requires_grad_()
        (reference,) = torch.autograd.grad(reference_conv(x, sh, leaf, edge_index, spec.flat), leaf, grad)
        assert_close([dw], [reference], {torch.float32: 1e-5, torch.float64: 1e-13}[dtype])


def e3nn_conv(spec, x, sh, weight, edge_index):
    """Value in our layout from e3nn's TensorProduct (instructions as NequIP builds them) and index_add."""
    products, instructions = [], []
    for i, (mul, ir_in) in enumerate(spec.irreps_in):
        for k, (_, ir_sh) in enumerate(spec.irreps_sh):
            for ir_out in ir_in * ir_sh:
                if ir_out in spec.irreps_out:
                    instructions.append((i, k, len(products), "uvu", True))
                    products.append((mul, ir_out))
    sorted_products, position, _ = o3.Irreps(products).sort()
    instructions = [(i, k, position[out], mode, train) for i, k, out, mode, train in instructions]
    torch.set_default_dtype(torch.float64)  # e3nn's constants are rounded to the default type when it builds
    try:
        product = o3.TensorProduct(
            *(spec.irreps_in, spec.irreps_sh, sorted_products, instructions),
            shared_weights=False,
            internal_weights=False,
        )
    finally:
        torch.set_default_dtype(torch.float32)
    messages = product(to_e3nn(x, spec.irreps_in)[edge_index[1]], sh, weight)
    out = x.new_zeros(x.shape[0], sorted_products.dim).index_add(0, edge_index[0], messages)
    # e3nn's blocks of one irrep follow one another: side by side in its channels when seen as [mul, 2l+1]
    return from_e3nn(out, spec.irreps_out)


@pytest.mark.parametrize("seed", range(12))
def test_equals_e3nn(seed):
    generator = torch.Generator().manual_seed(seed)

    def pick(*choices):
        return choices[torch.randint(len(choices), (), generator=generator)]

    lmax = pick(1, 2, 3, 4)
    irreps_in = [(pick(1, 2, 3, 8, 17), (pick(0, 1, 2, 3, 4), pick(1, -1))) for _ in range(pick(1, 2, 3))]
    every = o3.Irreps([(1, (l, p)) for l in range(5) for p in (1, -1)])
    spec = TensorProductSpec(irreps_in, lmax, every)
    x, sh, weight, edge_index = random_inputs(spec, 6, 25, torch.float64, seed=seed)

    def e3nn_convolution(x, sh, weight, edge_index, _):
        return e3nn_conv(spec, x, sh, weight, edge_index)

    arguments = (x, sh, weight, edge_index, spec.flat)
    expected = derivatives(e3nn_convolution, arguments, (0, 1, 2))
    assert_close(derivatives(tensor_product_conv, arguments, (0, 1, 2)), expected, 1e-12)


def test_every_coupling_equals_e3nn():
    """All 65 triples of degrees up to 4 in one spec."""
    irreps_in = o3.Irreps([(2, (l, (-1) ** l)) for l in range(5)])
    spec = TensorProductSpec(irreps_in, 4, [(1, (l, p)) for l in range(5) for p in (1, -1)])
    assert len({path[:3] for path in spec.paths}) == 65
    x, sh, weight, edge_index = random_inputs(spec, 5, 20, torch.float64)
    out = tensor_product_conv(x, sh, weight, edge_index, spec.flat)
    assert_close([out], [e3nn_conv(spec, x, sh, weight, edge_index)], 1e-12)


def test_spec_of_nequip_layer():
    spec = TensorProductSpec("128x0e + 64x1o + 32x2e", 2, "128x0e + 64x1o + 32x2e")
    assert spec.weight_numel == 768
    assert spec.irreps_out == o3.Irreps("224x0e + 288x1o + 256x2e")
    assert (spec.dim_in, spec.flat[0], spec.flat[3]) == (480, 480, 768)
    with pytest.raises(ValueError, match="degree l = 5 is above 4"):
        TensorProductSpec("1x5o", 1, "1x4e")
    with pytest.raises(ValueError, match="no path"):
        TensorProductSpec("1x0e", 0, "1x1o")


def test_bad_arguments(device, cuda_kernels):
    x, sh, weight, edge_index = random_inputs(TINY, 3, 5, torch.float32, device)
    flat = TINY.flat
    with pytest.raises(ValueError, match=r"edge_sh has shape \[5, 3\], expected \[5, 4\]"):
        tensor_product_conv(x, sh[:, :3], weight, edge_index, flat)
    with pytest.raises(ValueError, match="edge_weight has shape"):
        tensor_product_conv(x, sh, weight[:4], edge_index, flat)
    with pytest.raises(ValueError, match="edge_index has shape"):
        tensor_product_conv(x, sh, weight, edge_index.T, flat)
    with pytest.raises(TypeError, match="edge_weight is Double but x is Float"):
        tensor_product_conv(x, sh, weight.double(), edge_index, flat)
    with pytest.raises(TypeError, match="x is Half"):
        tensor_product_conv(x.half(), sh.half(), weight.half(), edge_index, flat)
    with pytest.raises(TypeError, match="edge_index is Int"):
        tensor_product_conv(x, sh, weight, edge_index.int(), flat)
    for wrong in (-1, 3):
        for row in (0, 1):
            bad = edge_index.clone()
            bad[row, 2] = wrong
            if cuda_kernels:  # to look at indices on the host would make it wait
                out = tensor_product_conv(x.requires_grad_(), sh, weight, bad, flat)
                assert out.isnan().all()
                assert torch.autograd.grad(out.sum(), x)[0].isnan().any()
                continue
            with pytest.raises(IndexError, match=f"edge_index has {wrong} but x has 3 nodes"):
                tensor_product_conv(x, sh, weight, bad, flat)
    with pytest.raises(ValueError, match=rf"edge_sh is on {sh.device} but x is on meta"):
        tensor_product_conv(x.to("meta"), sh, weight.to("meta"), edge_index.to("meta"), flat)


def test_bad_spec():
    inputs = random_inputs(TINY, 3, 5, torch.float32)
    with pytest.raises(ValueError, match="no list of paths"):
        tensor_product_conv(*inputs, TINY.flat[:-1])
    for position, value, message in [
        (5, 7, "couples degrees"),  # l1
        (9, TINY.dim_in, "leaves its tensors"),  # in_offset
        (8, 3, "leaves its tensors or shares"),  # mul
        (3, TINY.weight_numel + 1, "belongs to no path"),
    ]:
        flat = list(TINY.flat)
        flat[position] = value
        with pytest.raises(ValueError, match=message):
            tensor_product_conv(*inputs, flat)

"""The convolution's inference form: its cases of the six tests; it has one derivative."""

import pytest
import torch
from e3nn.o3 import Irreps, spherical_harmonics

from tests.ops.op_case import OpCase
from uqforce.ops import (
    BlockSpec,
    TensorProductSpec,
    radial_table,
    tabulated_conv,
    tabulated_conv_vjp,
    tensor_product_conv,
)
from uqforce.reference.block_linear import block_linear as reference_linear
from uqforce.reference.tabulated_conv import radial_weights
from uqforce.reference.tabulated_conv import spherical_harmonics as reference_harmonics
from uqforce.reference.tabulated_conv import tabulated_conv as reference


class Case:
    """A convolution with two types of atoms, edges sorted by centre or not, none at the last three atoms."""

    def __init__(
        self,
        irreps_in,
        l_max,
        irreps_out,
        nodes=30,
        edges=500,
        intervals=16,
        seed=0,
        unsorted=False,
        cotangents=3,
    ):
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        self.spec = TensorProductSpec(irreps_in, l_max, irreps_out)
        wanted = Irreps([(5 + 14 * k, ir) for k, (_, ir) in enumerate(self.spec.irreps_out)])
        self.map = BlockSpec(self.spec.irreps_out, wanted, fan=0)
        index = torch.randint(max(nodes - 3, 1), (2, edges), generator=generator)
        if not unsorted:
            index[0] = index[0].sort().values
        self.tensors = {
            "x": randn(nodes, self.spec.dim_in),
            "edge_vec": 1.5 * randn(edges, 3),  # some beyond the cutoffs
            "edge_index": index,
            "atom_types": torch.randint(2, (nodes,), generator=generator),
            "cutoffs": torch.tensor([[3.0, 2.0], [2.5, 4.0]], dtype=torch.float64),
            "table": randn((intervals + 5) * self.spec.weight_numel),
            "linear": randn(self.map.weight_numel),
        }
        self.cotangents = randn(cotangents, nodes, self.map.dim_out)

    def arguments(self, dtype=torch.float64, device="cpu", **changed):
        tensors = {**self.tensors, **changed}
        return [
            *(t.to(device, dtype if t.is_floating_point() else None) for t in tensors.values()),
            self.spec.flat,
            self.map.flat,
        ]

    def vjp_arguments(self, dtype=torch.float64, device="cpu", **changed):
        transposed = self.map.transpose(self.tensors["linear"])
        arguments = self.arguments(dtype, device, **{"linear": transposed, **changed})
        return [self.cotangents.to(device, dtype), *arguments]


CASES = {
    "tiny": ("2x0e + 1x1o", 1, "0e + 1o + 1e"),
    "scalars": ("3x0e", 0, "0e"),
    "tails": ("5x0e + 3x0o + 2x1o + 17x1e + 1x2e", 2, "0e + 1o + 1e + 2e + 2o"),
    "high": ("2x3o + 1x4e", 4, "0e + 1o + 2e + 3o + 3e + 4e"),
    "wide": ("40x0e + 33x1o", 3, "0e + 1o + 2e"),
}


CROWDED = {"nodes": 12, "edges": 150}  # as many edges per centre as in a solid


@pytest.fixture(params=CASES)
def case(request):
    return Case(*CASES[request.param], **CROWDED)


def untransposed(linear, linear_spec):
    """The weights of which `linear` is `BlockSpec.transpose`."""
    blocks = sorted((linear_spec[k : k + 6] for k in range(4, len(linear_spec), 6)), key=lambda b: b[5])
    parts = linear.split([mul_in * mul_out for _, mul_in, mul_out, *_ in blocks])
    matrices = [part.view(mul_out, mul_in) for (_, mul_in, mul_out, *_), part in zip(blocks, parts)]
    return torch.cat([matrix.t().flatten() for matrix in matrices])


def reference_vjp(cotangents, x, edge_vec, *rest):
    """The definition's gradients, of one cotangent after the other."""
    *tensors, linear, conv_spec, linear_spec, _ = rest
    inputs = [t.detach().requires_grad_() for t in (x, edge_vec)]
    out = reference(*inputs, *tensors, untransposed(linear, linear_spec), conv_spec, linear_spec)
    gradients = [torch.autograd.grad(out, inputs, c, retain_graph=True) for c in cotangents]
    return tuple(torch.stack(parts) for parts in zip(*gradients))


def calls(*arguments):
    yield "tabulated_conv", arguments
    leaf = arguments[0].clone().requires_grad_()
    # not the test of compiled gradients, which wants a second derivative
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    yield "tabulated_conv", (leaf, *arguments[1:]), *tests


def calls_of_vjp(*arguments):
    yield "tabulated_conv_vjp", arguments


def samples(arguments):
    """The samples of both ops, made by `arguments(case)`."""

    def made(name, unsorted=False, **sizes):
        return lambda: arguments(Case(*CASES[name], unsorted=unsorted, **sizes))

    return {
        "samples": {
            f"{name}{' unsorted' * unsorted}": made(name, unsorted, **CROWDED)
            for name in CASES
            for unsorted in (False, True)
        },
        "tiny": {"tiny": made("tiny", nodes=6, edges=14)},
        "edges": {
            f"{nodes} nodes {edges} edges": made("tails", nodes=nodes, edges=edges)
            for nodes, edges in ((0, 0), (1, 0), (1, 70), (5, 3), (3, 400))
        },
        # cotangents enough for two threads to share, not for three
        "many": {name: made(name, cotangents=9) for name in CASES},
        "called": {f"{edges} edges": made("tiny", edges=edges) for edges in (0, 40)},
    }


TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-13}
OP_CASES = [
    OpCase(
        tabulated_conv,
        reference,
        differentiable=(0, 1),
        order=1,
        **samples(Case.arguments),
        calls=calls,
        tolerance=TOLERANCE,
        refusal="differentiated once",
        isa_eps=50,
    ),
    OpCase(
        tabulated_conv_vjp,
        reference_vjp,
        differentiable=(),
        order=0,
        csrc="tabulated_conv",
        **samples(lambda case: [*case.vjp_arguments(), True]),
        calls=calls_of_vjp,
        tolerance=TOLERANCE,
        isa_eps=50,
    ),
]


def test_reference_harmonics_are_e3nns():
    direction = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=1)
    want = spherical_harmonics(range(5), direction, normalize=True, normalization="component")
    torch.testing.assert_close(reference_harmonics(direction, 4), want)


def test_equals_the_convolution_that_it_tabulates():
    """With the table of a smooth function it gives what tensor_product_conv gives with the function."""
    case = Case(*CASES["tails"])
    frequency = torch.linspace(0.5, 3.0, case.spec.weight_numel, dtype=torch.float64)

    def radial(x):
        return (1 - x) ** 3 * torch.cos(3 * x * frequency)

    errors = []
    for intervals in (16, 32):
        table, error = radial_table(radial, case.spec, intervals)
        index, vec, types = (case.tensors[k] for k in ("edge_index", "edge_vec", "atom_types"))
        length = vec.norm(dim=1)
        scaled = length / case.tensors["cutoffs"][types[index[0]], types[index[1]]]
        weights = torch.where(scaled[:, None] < 1, radial(scaled[:, None]), 0.0)
        found = radial_weights(scaled, table, case.spec.flat)
        every = radial(torch.linspace(0, 1, 1000, dtype=torch.float64)[:, None])
        assert (found - weights).abs().max() <= 2 * error * every.square().mean().sqrt()
        sh = reference_harmonics(vec / length[:, None], 2)
        rows = tensor_product_conv(case.tensors["x"], sh, weights, index, case.spec.flat)
        out = tabulated_conv(*case.arguments(table=table))
        want = reference_linear(rows, case.tensors["linear"][None], None, case.map.flat)
        assert (out - want).abs().max() <= 20 * error * want.abs().max()
        errors.append(error)
    assert errors[1] < errors[0] / 30 and errors[1] < 1e-6  # sixth order


def test_smooth_at_the_cutoff(device):
    """An edge that crosses its cutoff enters with the third power of the distance."""
    case = Case("2x0e", 1, "0e + 1o", nodes=2, edges=1)
    values = []
    for gap in (2e-2, 1e-2, -1e-2):
        vec = torch.tensor([[0.0, 3.0 - gap, 0.0]])
        changed = {
            "edge_vec": vec,
            "edge_index": torch.tensor([[0], [1]]),
            "atom_types": torch.zeros(2).long(),
        }
        values.append(tabulated_conv(*case.arguments(device=device, **changed)).abs().max().item())
    assert values[2] == 0
    assert values[0] / values[1] == pytest.approx(8, rel=0.2)


def test_other_gradients_are_refused():
    arguments = Case(*CASES["tiny"]).arguments()
    arguments[5].requires_grad_()
    with pytest.raises(RuntimeError, match="table requires a gradient"):
        tabulated_conv(*arguments)


def test_without_the_gradient_of_x(case, device):
    dx, dvec = tabulated_conv_vjp(*case.vjp_arguments(device=device), needs_x=False)
    assert dx.shape == (0, *case.tensors["x"].shape)
    assert torch.equal(dvec, tabulated_conv_vjp(*case.vjp_arguments(device=device))[1])


def test_no_cotangents(device):
    case = Case(*CASES["tiny"])
    case.cotangents = case.cotangents[:0]
    assert [t.shape[0] for t in tabulated_conv_vjp(*case.vjp_arguments(device=device))] == [0, 0]


def test_more_than_65535_nodes(device):
    case = Case("1x0e", 1, "0e + 1o", nodes=70_000, edges=140_000)
    arguments = case.arguments(device=device)
    got = tabulated_conv(*arguments)
    last = arguments[2][0] >= 69_000
    arguments[1], arguments[2] = arguments[1][last], arguments[2][:, last]
    assert torch.equal(tabulated_conv(*arguments)[69_000:], got[69_000:])


def test_nan_shows(device):
    case = Case(*CASES["tiny"])
    vec = case.tensors["edge_vec"].clone()
    vec[7] = float("nan")
    out = tabulated_conv(*case.arguments(device=device, edge_vec=vec))
    assert out[case.tensors["edge_index"][0, 7]].isnan().any()


def test_bad_arguments(device, cuda_kernels):
    case = Case(*CASES["tiny"])
    good = case.tensors
    with pytest.raises(ValueError, match=r"edge_vec has shape \[499, 3\], expected \[500, 3\]"):
        tabulated_conv(*case.arguments(device=device, edge_vec=good["edge_vec"][1:]))
    with pytest.raises(ValueError, match="table has 10 numbers"):
        tabulated_conv(*case.arguments(device=device, table=good["table"][:10]))
    wrong_types = case.arguments(device=device, atom_types=good["atom_types"] + 1)
    wrong_edges = case.arguments(device=device, edge_index=good["edge_index"] + 60 - good["edge_index"][0, 0])
    if cuda_kernels:  # to look at indices on the host would make it wait
        assert tabulated_conv(*wrong_types).isnan().any()
        assert tabulated_conv(*wrong_edges).isnan().all()
    else:
        with pytest.raises(IndexError, match="atom_types has 2 but cutoffs has 2 types"):
            tabulated_conv(*wrong_types)
        with pytest.raises(IndexError, match="edge_index has 60"):
            tabulated_conv(*wrong_edges)
    with pytest.raises(TypeError, match="edge_vec is Float but x is Double"):
        arguments = case.arguments(device=device)
        tabulated_conv(arguments[0], arguments[1].float(), *arguments[2:])
    with pytest.raises(ValueError, match=r"cotangents has shape \[3, 29"):
        tabulated_conv_vjp(case.cotangents[:, 1:].to(device), *case.vjp_arguments(device=device)[1:])

"""The tests of the convolution's inference form; it has one derivative, so no second one is tested."""

import os
import subprocess
import sys

import pytest
import torch
from e3nn.o3 import Irreps, spherical_harmonics

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
    """A convolution with two types of atoms, edges sorted by centre, the last three atoms without any."""

    def __init__(self, irreps_in, l_max, irreps_out, nodes=30, edges=500, intervals=16, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        self.spec = TensorProductSpec(irreps_in, l_max, irreps_out)
        wanted = Irreps([(5 + 14 * k, ir) for k, (_, ir) in enumerate(self.spec.irreps_out)])
        self.map = BlockSpec(self.spec.irreps_out, wanted, fan=0)
        index = torch.randint(max(nodes - 3, 1), (2, edges), generator=generator)
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
        self.cotangents = randn(3, nodes, self.map.dim_out)

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


@pytest.fixture(params=CASES)
def case(request):
    return Case(*CASES[request.param], edges=150 if request.config.getoption("emulate") else 500)


def assert_close(got, want, dtype):
    assert got.dtype == dtype and got.shape == want.shape
    tolerance = 5e-6 if dtype == torch.float32 else 1e-13
    if want.numel():
        assert (got.double() - want.double()).abs().max() <= tolerance * want.abs().max()


def reference_vjp(case, dtype=torch.float64):
    arguments = [
        t.double() if torch.is_tensor(t) and t.is_floating_point() else t for t in case.arguments(dtype)
    ]
    inputs = [t.requires_grad_() for t in arguments[:2]]
    out = reference(*arguments)
    gradients = [
        torch.autograd.grad(out, inputs, c.to(dtype).double(), retain_graph=True) for c in case.cotangents
    ]
    return out.detach(), *(torch.stack(parts) for parts in zip(*gradients))


def test_equals_reference(case, dtype, device):
    out, dx, dvec = reference_vjp(case, dtype)
    assert_close(tabulated_conv(*case.arguments(dtype, device)).cpu(), out, dtype)
    got = tabulated_conv_vjp(*case.vjp_arguments(dtype, device))
    assert_close(got[0].cpu(), dx, dtype)
    assert_close(got[1].cpu(), dvec, dtype)


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


def test_gradients(device):
    case = Case(*CASES["tiny"], nodes=6, edges=14)
    arguments = case.arguments(device=device)
    inputs = [t.requires_grad_() for t in arguments[:2]]
    assert torch.autograd.gradcheck(lambda *moving: tabulated_conv(*moving, *arguments[2:]), inputs)


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


def test_second_derivative_and_other_gradients_are_refused():
    case = Case(*CASES["tiny"])
    arguments = case.arguments()
    arguments[0].requires_grad_()
    (dx,) = torch.autograd.grad(tabulated_conv(*arguments).sum(), arguments[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiated once"):
        dx.sum().backward()
    arguments[5].requires_grad_()
    with pytest.raises(RuntimeError, match="table requires a gradient"):
        tabulated_conv(*arguments)


@pytest.mark.parametrize("edges", [0, 40])
def test_opcheck(edges, device):
    case = Case(*CASES["tiny"], edges=edges)
    value, vjp = torch.ops.uqforce.tabulated_conv.default, torch.ops.uqforce.tabulated_conv_vjp.default
    torch.library.opcheck(value, tuple(case.arguments(device=device)))
    torch.library.opcheck(vjp, (*case.vjp_arguments(device=device), True))
    arguments = case.arguments(device=device)
    arguments[0].requires_grad_()
    # not the test of compiled gradients, which wants a second derivative
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(value, tuple(arguments), test_utils=checks)


def test_script_save_load(fresh_process, tmp_path):
    case = Case(*CASES["tails"])
    torch.jit.script(tabulated_conv).save(str(tmp_path / "value.pt"))
    torch.jit.script(tabulated_conv_vjp).save(str(tmp_path / "vjp.pt"))
    cases = [(case.arguments(), tabulated_conv(*case.arguments()))]
    cases.append(([*case.vjp_arguments(), True], tabulated_conv_vjp(*case.vjp_arguments())))
    torch.save(cases, tmp_path / "cases")
    fresh_process("""
        value, vjp = torch.load("cases", weights_only=True)
        assert torch.equal(torch.jit.load("value.pt")(*value[0]), value[1])
        got = torch.jit.load("vjp.pt")(*vjp[0])
        assert all(torch.equal(a, b) for a, b in zip(got, vjp[1]))
    """)


@pytest.mark.parametrize(("nodes", "edges"), [(0, 0), (1, 0), (1, 70), (5, 3), (3, 400)])
def test_small_and_crowded(nodes, edges, dtype, device):
    case = Case(*CASES["tails"], nodes=nodes, edges=edges)
    out, dx, dvec = reference_vjp(case, dtype)
    assert_close(tabulated_conv(*case.arguments(dtype, device)).cpu(), out, dtype)
    got = tabulated_conv_vjp(*case.vjp_arguments(dtype, device))
    assert_close(got[0].cpu(), dx, dtype)
    assert_close(got[1].cpu(), dvec, dtype)


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


def test_unsorted_and_non_contiguous(case, device):
    order = torch.randperm(len(case.tensors["edge_vec"]), generator=torch.Generator().manual_seed(1))
    vec, index = case.tensors["edge_vec"][order], case.tensors["edge_index"][:, order]
    x = case.tensors["x"].t().contiguous().t()
    out, dx, dvec = reference_vjp(case)
    changed = {"edge_vec": vec, "edge_index": index, "x": x}
    assert_close(tabulated_conv(*case.arguments(device=device, **changed)).cpu(), out, torch.float64)
    got = tabulated_conv_vjp(*case.vjp_arguments(device=device, **changed))
    assert_close(got[0].cpu(), dx, torch.float64)
    assert_close(got[1].cpu(), dvec[:, order], torch.float64)


def test_nan_shows(device):
    case = Case(*CASES["tiny"])
    vec = case.tensors["edge_vec"].clone()
    vec[7] = float("nan")
    out = tabulated_conv(*case.arguments(device=device, edge_vec=vec))
    assert out[case.tensors["edge_index"][0, 7]].isnan().any()


def test_bitwise_the_same_twice_and_for_any_number_of_threads(case, dtype, device, cuda_kernels):
    threads = torch.get_num_threads()
    if not cuda_kernels:  # enough for two threads to share them, not for three
        case.cotangents = case.cotangents.repeat(3, 1, 1)
    results = []
    for count in (1, 1) if cuda_kernels else (1, 1, 2, 3):
        torch.set_num_threads(count)
        results.append(
            [
                tabulated_conv(*case.arguments(dtype, device)),
                *tabulated_conv_vjp(*case.vjp_arguments(dtype, device)),
            ]
        )
    torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


COMPARE = """
import sys, torch
from tests.ops.test_tabulated_conv import CASES, Case, assert_close, reference_vjp
from uqforce.ops import tabulated_conv, tabulated_conv_vjp
for dtype in (torch.float32, torch.float64):
    for parameters in CASES.values():
        case = Case(*parameters)
        got = [tabulated_conv(*case.arguments(dtype)), *tabulated_conv_vjp(*case.vjp_arguments(dtype))]
        for a, b in zip(got, reference_vjp(case, dtype)):
            assert_close(a, b, dtype)
print(torch.ops.uqforce.build_info())
"""


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPARE], capture_output=True, text=True,
                          env={**os.environ, "UQFORCE_ISA": isa, "PYTHONPATH": "."})  # fmt: skip
    if "UQFORCE_ISA" in done.stderr:
        pytest.skip(f"this processor lacks {isa}")
    assert done.returncode == 0, done.stderr
    assert f'"instruction_set": "{isa}"' in done.stdout


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

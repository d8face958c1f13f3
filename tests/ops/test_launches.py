"""What the CUDA ops launch and how much memory they take, counted in the emulation (`pytest --emulate`)."""

import ctypes
import time

import pytest
import torch

from tests.ops.test_tabulated_conv import Case
from uqforce.ops import TensorProductSpec, force_variance

OPS = torch.ops.uqforce
SPEC = TensorProductSpec("16x0e + 16x1o", 1, "0e + 1o")


class Counters:
    """Launches of each name, and their blocks, since the last `forget()`."""

    def __init__(self, path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.uqforce_emulation_launches.restype = ctypes.c_int64
        self.library.uqforce_emulation_blocks.restype = ctypes.c_int64

    def forget(self) -> None:
        self.library.uqforce_emulation_forget()

    def launches(self, name: str) -> int:
        return self.library.uqforce_emulation_launches(name.encode())

    def blocks(self, name: str) -> int:
        return self.library.uqforce_emulation_blocks(name.encode())


@pytest.fixture
def counters(request):
    if not request.config.getoption("emulate"):
        pytest.skip("launches are counted in the emulation of CUDA: pytest --emulate")
    counters = Counters(request.config.emulation)
    counters.forget()
    return counters


def edges(nodes: int) -> torch.Tensor:
    """Ten of each of the nodes but the last three and the first, by centre."""
    index = 1 + torch.randint(nodes - 4, (2, 10 * nodes), generator=torch.Generator().manual_seed(0))
    return torch.stack([index[0].sort().values, index[1]])


def backward(nodes: int):
    torch.manual_seed(0)
    n = 10 * nodes
    return OPS.tensor_product_conv_backward(
        torch.randn(nodes, SPEC.dim_out), torch.randn(nodes, SPEC.dim_in), torch.randn(n, 4),
        torch.randn(n, SPEC.weight_numel), edges(nodes), SPEC.flat, [True] * 3,
    )  # fmt: skip


def double_backward(nodes: int):
    torch.manual_seed(0)
    n = 10 * nodes
    x, sh, w = (torch.randn(nodes, SPEC.dim_in), torch.randn(n, 4), torch.randn(n, SPEC.weight_numel))
    return OPS.tensor_product_conv_double_backward(
        2 * x, 3 * sh, 4 * w, torch.randn(nodes, SPEC.dim_out), x, sh, w, edges(nodes), SPEC.flat, [True] * 4
    )


def tabulated(nodes: int):
    case = Case("16x0e + 16x1o", 1, "0e + 1o", nodes, 10 * nodes)
    return OPS.tabulated_conv_vjp(*case.vjp_arguments(torch.float32, edge_index=edges(nodes)), True)


DERIVATIVES = {
    "tensor_product_conv_backward": backward,
    "tensor_product_conv_double_backward": double_backward,
    "tabulated_conv_vjp": tabulated,
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_passes_do_not_grow_with_the_system(name, counters):
    """From a size on the launches are the same whatever the number of atoms, their blocks in proportion."""
    launches, sums, blocks = [], [], []
    for nodes in (60, 120, 240):
        counters.forget()
        DERIVATIVES[name](nodes)
        launches.append(counters.launches(name))
        blocks.append(counters.blocks(name) / nodes)
        sums.append(counters.launches("add_rows"))
    assert sums[1:] == [8, 8] and launches[1] == launches[2] >= 8
    assert blocks[2] <= 1.05 * blocks[1] <= 1.2 * blocks[0]


@pytest.mark.parametrize("name", DERIVATIVES)
def test_results_do_not_depend_on_the_passes(name, counters, monkeypatch):
    want = DERIVATIVES[name](120)
    few = counters.launches("add_rows")
    monkeypatch.setenv("UQFORCE_EMULATED_FREE_MEMORY", "0")
    counters.forget()
    got = DERIVATIVES[name](120)
    assert counters.launches("add_rows") > few
    for a, b in zip(got, want):
        assert torch.equal(a, b)


def test_blocks_of_99_kilobytes(counters, monkeypatch):
    """As on sm_86, sm_89 and sm_120: blocks of the derivative have fewer nodes, and the same results."""
    cotangents, *others = Case("8x0e + 8x1o + 8x2e", 4, "0e + 1o + 2e + 3o + 4e", 100, 200).vjp_arguments()
    want = OPS.tabulated_conv_vjp(cotangents[:1], *others, True)
    wide = counters.blocks("tabulated_conv_vjp")
    monkeypatch.setenv("UQFORCE_EMULATED_SHARED_MEMORY", str(99 << 10))
    counters.forget()
    got = OPS.tabulated_conv_vjp(cotangents[:1], *others, True)
    assert counters.blocks("tabulated_conv_vjp") > wide
    for a, b in zip(got, want):
        assert torch.equal(a, b)


def seconds_of_a_batch(batch: torch.Tensor) -> float:
    no_edges, none = torch.zeros(2, 0, dtype=torch.int64), torch.zeros(1, 0, 3, dtype=torch.float64)
    start = time.process_time()
    force_variance(no_edges, none[0], none, None, None, 1.0, batch, 2)
    return time.process_time() - start


def test_a_shuffled_batch_costs_about_what_an_ordered_one_does(counters):
    """Ranks within groups of 40 000 atoms would take 3e9 comparisons."""
    batch = torch.arange(2).repeat_interleave(40_000)
    ordered, shuffled = seconds_of_a_batch(batch), seconds_of_a_batch(batch[torch.randperm(len(batch))])
    assert shuffled < 1.5 * ordered


def test_interpolation_takes_memory_for_sums_only_where_it_sums(counters):
    table, x = torch.randn(400, 1920), torch.rand(10, 1)
    sums = 400 * 4 * 1920 * 4  # bytes

    def taken(call) -> int:
        with torch.profiler.profile(profile_memory=True) as profile:
            call()
        return sum(
            event.self_cpu_memory_usage for event in profile.key_averages() if event.key == "aten::empty"
        )

    assert taken(lambda: OPS.radial_interpolation(table, table, x)) < sums / 4
    grad = torch.randn(10, 1920)
    assert taken(lambda: OPS.radial_interpolation_backward(grad, table, x, [True, False])) > sums

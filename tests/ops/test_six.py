"""The tests that every op has, once for all: each `tests/ops/test_<op>.py` offers its `OP_CASES`.

The six: equals the definition; finite differences of two orders; opcheck; scripted, saved and loaded in a
fresh process; the edges of its domain, arguments that are not contiguous among them; bitwise the same twice
and for any number of threads. Beside them what else is the same for all: one derivative more is refused,
instruction sets agree, a build without CUDA says so. `-k gate` chooses an op.
"""

from pathlib import Path

import pytest
import torch

from tests.ops.cases import CASES
from tests.ops.op_case import OpCase, assert_close, assert_same_bits, derivatives, overload, placed
from uqforce import build_info

ROOT = Path(__file__).parents[2]
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def every(kind: str, where=lambda case: True):
    """Parametrises a test by `case` and `sample`: all samples of a kind, of the cases that are wanted."""
    return pytest.mark.parametrize(
        ("case", "sample"),
        [
            pytest.param(case, sample, id=f"{case.name}-{name}")
            for case in filter(where, CASES)
            for name, sample in getattr(case, kind).items()
        ],
    )


def assert_equals_reference(case: OpCase, sample, tolerance: float, dtype, device) -> None:
    arguments = placed(sample(), dtype, device)
    ours = derivatives(case.op, arguments, case.differentiable, case.order)
    assert all(t.dtype == dtype for t in ours if t.is_floating_point())
    exact = placed(arguments, torch.float64, device)
    expected = derivatives(case.reference, exact, case.differentiable, case.order, dtype)
    assert_close(ours, expected, tolerance)


@every("samples")
def test_equals_reference(case, sample, dtype, device):
    assert_equals_reference(case, sample, case.tolerance[dtype], dtype, device)


@every("tiny", lambda case: case.order > 0)
def test_gradients(case, sample, device):
    arguments = placed(sample(), torch.float64, device)

    def function(*inputs):
        changed = dict(zip(case.differentiable, inputs))
        results = case.op(*(changed.get(k, argument) for k, argument in enumerate(arguments)))
        return results if torch.is_tensor(results) else tuple(t for t in results if t.is_floating_point())

    inputs = [arguments[k].requires_grad_() for k in case.differentiable]
    assert torch.autograd.gradcheck(function, inputs)
    assert case.order == 1 or torch.autograd.gradgradcheck(function, inputs)


@every("called")
def test_opcheck(case, sample, device):
    for schema, arguments, *utilities in case.calls(*placed(sample(), torch.float64, device)):
        options = {"test_utils": utilities} if utilities else {}
        torch.library.opcheck(overload(schema), tuple(arguments), **options)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_script_save_load(case, device, in_fresh_process):
    """What a fresh process computes with the saved op: the same bits."""
    for name, sample in case.fresh.items():
        for dtype in DTYPES.values():
            arguments = placed(sample(), dtype, device)
            loaded = in_fresh_process(device, None)[case.name, name, str(dtype)]
            assert_same_bits(loaded, derivatives(case.op, arguments, case.differentiable, case.order))


@every("edges")
def test_edges(case, sample, dtype, device):
    tolerance = (case.edge_tolerance or case.tolerance)[dtype]
    assert_equals_reference(case, sample, tolerance, dtype, device)


@every("samples")
def test_edges_non_contiguous(case, sample, device):
    arguments = placed(sample(), torch.float64, device)
    strided = [torch.stack([a, a], dim=-1)[..., 0] if isinstance(a, torch.Tensor) else a for a in arguments]
    assert not any(a.is_contiguous() for a in strided if isinstance(a, torch.Tensor) and a.numel() > 1)
    results = [derivatives(case.op, a, case.differentiable, case.order) for a in (arguments, strided)]
    if case.layout_eps:
        assert_close(*results, case.layout_eps * torch.finfo(torch.float64).eps)
    else:
        assert_same_bits(*results)


@every("samples", lambda case: case.order > 0)
def test_edges_expanded_cotangents(case, sample, device):
    """What the sum of a result hands back: one number, with strides of 0."""
    arguments = placed(sample(), torch.float64, device)
    inputs = [arguments[k].requires_grad_() for k in case.differentiable]
    results = case.op(*arguments)
    smooth = [t for t in ([results] if torch.is_tensor(results) else results) if t.requires_grad]
    expanded = [t.new_ones(()).expand_as(t) for t in smooth]
    dense = [torch.ones_like(t) for t in smooth]
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    assert_same_bits(*(torch.autograd.grad(smooth, inputs, ones, **options) for ones in (expanded, dense)))


@every("many")
def test_bitwise_the_same_twice_and_for_any_number_of_threads(case, sample, dtype, device, cuda_kernels):
    arguments = placed(sample(), dtype, device)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 1) if cuda_kernels else (1, 1, 2, 3):
            torch.set_num_threads(number)
            results.append(derivatives(case.op, arguments, case.differentiable, case.order))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert_same_bits(other, results[0])


# ---- beside the six


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_has_samples_for_each_test(case):
    """A test that finds no samples would be none."""
    kinds = ("samples", "edges", "many", "called", *(["tiny"] if case.order > 0 else []))
    assert [kind for kind in kinds if not getattr(case, kind)] == []


def test_every_schema_has_a_case():
    """What the library offers is what opcheck and the others look at."""
    calls = [call for case in CASES for sample in case.called.values() for call in case.calls(*sample())]
    called = {schema.partition(".")[0] for schema, *_ in calls}
    names = {schema.name for schema in torch._C._jit_get_all_schemas()}
    offered = {name.removeprefix("uqforce::") for name in names if name.startswith("uqforce::")}
    of_engines = {"ghost_exchange", "ghost_exchange_vjp", "sum_over_ranks"}  # see test_ghost_exchange.py
    of_the_build = {"build_info", "cuda_arch_for", "cuda_capability"}  # see test_build.py, test_device.py
    assert offered - called == {*of_the_build, *of_engines}


@every("tiny", lambda case: case.refusal and case.order > 0)
def test_one_derivative_more_is_refused(case, sample, device):
    arguments = placed(sample(), torch.float64, device)
    with pytest.raises(NotImplementedError, match=case.refusal):
        derivatives(case.op, arguments, case.differentiable, case.order + 1)


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("isa", build_info()["instruction_sets"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_instruction_set(case, isa, in_fresh_process):
    """The sets below the one in use give the same numbers to rounding (each with its own tails)."""
    sets = build_info()["instruction_sets"]
    if sets.index(isa) > sets.index(build_info()["instruction_set"]):
        pytest.skip(f"this processor lacks {isa}")
    best, others = (in_fresh_process(torch.device("cpu"), which) for which in (None, isa))
    for name in case.fresh:
        for dtype in DTYPES.values():
            key = (case.name, name, str(dtype))
            assert_close(others[key], best[key], case.isa_eps * torch.finfo(dtype).eps)


@pytest.mark.skipif(build_info()["cuda_archs"] is not None, reason="this build has CUDA kernels")
@every("called")
def test_without_cuda(case, sample):
    """A CUDA tensor in a build without CUDA kernels meets one clear sentence."""
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    for schema, arguments, *_ in case.calls(*sample()):
        name = schema.partition(".")[0]
        sentence = rf"without CUDA kernels for uqforce::{name}: .*\.cpu\(\)"
        with pytest.raises(NotImplementedError, match=sentence):
            overload(schema).redispatch(cuda, *arguments)


PROGRAM = """
import traceback
sys.path.insert(0, sys.argv[1])
from tests.ops.op_case import derivatives
results = {}
for key, *how in torch.load("tasks.pt"):
    try:
        results[key] = derivatives(torch.jit.load(f"{key[0]}.pt"), *how)
    except Exception:
        results[key] = traceback.format_exc()
torch.save(results, "results.pt")
"""


@pytest.fixture(scope="session")
def in_fresh_process(run_in_fresh_process, tmp_path_factory):
    """`in_fresh_process(device, isa)[name of case, name of sample, dtype]`: what a new process computes.

    One process for all cases, each by its saved op. `isa` is its set of CPU kernels; None: this process's.
    """
    found = {}

    class Results(dict):
        def __getitem__(self, key):
            result = super().__getitem__(key)
            assert not isinstance(result, str), result  # an error's traceback
            return result

    def results(device, isa) -> Results:
        if (device, isa) not in found:
            folder = tmp_path_factory.mktemp("ops")
            for case in CASES:
                torch.jit.script(case.op).save(f"{folder}/{case.name}.pt")
            tasks = [
                (
                    (case.name, name, str(dtype)),
                    placed(sample(), dtype, device),
                    case.differentiable,
                    case.order,
                )
                for case in CASES
                for name, sample in case.fresh.items()
                for dtype in DTYPES.values()
            ]
            torch.save(tasks, folder / "tasks.pt")
            run_in_fresh_process(folder, PROGRAM, ROOT, **({"UQFORCE_ISA": isa} if isa else {}))
            found[device, isa] = Results(torch.load(folder / "results.pt"))
        return found[device, isa]

    return results

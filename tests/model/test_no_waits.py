"""On CUDA the host never waits for a value of the device in an evaluation of the inference form.

Tensors that have a device, "cuda", and shapes but no values (`FakeTensorMode`) stand for those of a GPU:
whatever needs a value or a number of rows that only the device knows is an error there. The training form
differentiates by autograd, which asks for a real device.
"""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from tests.model.systems import CUTOFF, TYPES, make_potential, random_system
from uqforce.model import Graph, InferencePotential, Potential
from uqforce.ops import neighbor_list

EACH = 2  # components of a type's mixture


@pytest.fixture(scope="module", autouse=True)
def cuda_device(tmp_path_factory):
    """A torch without CUDA gets a device of that name, which does nothing."""
    if torch.version.cuda is None:
        library = tmp_path_factory.mktemp("cuda_guard") / "cuda_guard.so"
        there = Path(torch.__file__).parent
        source = Path(__file__).parents[1] / "emulation" / "cuda_guard.cpp"
        flags = [
            "-std=c++20",
            "-shared",
            "-fPIC",
            f"-I{there / 'include'}",
            f"-L{there / 'lib'}",
        ]
        subprocess.run(["c++", *flags, source, "-o", library, "-lc10"], check=True)
        ctypes.CDLL(str(library))


def with_everything(noise: str) -> Potential:
    """A model with noise, a mixture for each type, rigidities, calibration and repulsion of nuclei."""
    potential = make_potential(noise=noise, zbl=True, num_layers=2)
    d, kinds = potential.network.num_last_features, len(TYPES)
    potential.set_mixture(
        torch.randn(EACH * kinds, d, dtype=torch.float64),
        torch.eye(d, dtype=torch.float64).repeat(EACH * kinds, 1, 1),
        torch.full((EACH * kinds,), 1 / EACH, dtype=torch.float64).log(),
        counts=torch.full((kinds,), EACH),
    )
    potential.rigidity.store(torch.eye(d))
    knots = torch.tensor([[0.1, 1.0], [0.2, 1.5]])
    potential.calibration.store(energy=knots, forces=knots, error=knots, origin=torch.tensor(0.0))
    return potential


class Scored(torch.nn.Module):
    """`with_nll_gradient` as the module's `forward`."""

    def __init__(self, potential: InferencePotential) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, *arguments):
        *graph, reduction = arguments
        out, slope = self.potential.with_nll_gradient(Graph(*graph), reduction)
        return [*out.values(), slope]


class Share(Scored):
    """A share of a structure as the module's `forward` takes it."""

    def forward(self, edge_vec, edge_index, atom_types, batch, numbers):
        share = Graph(
            edge_vec, edge_index, atom_types, batch, 1, parallel=True, exchange=True, numbers=numbers
        )
        return list(self.potential.forward(share).values())


def on_fake_cuda(module: torch.nn.Module, *arguments) -> list[torch.Tensor]:
    """What the module makes of the arguments, all of them without values on a CUDA device."""
    with FakeTensorMode():

        def there(value):
            is_tensor = isinstance(value, torch.Tensor)
            return torch.empty(value.shape, dtype=value.dtype, device="cuda") if is_tensor else value

        own = [*module.named_parameters(), *module.named_buffers()]
        values = {name: there(value) for name, value in own}
        return torch.func.functional_call(module, values, tuple(there(a) for a in arguments))


def system() -> tuple:
    """Edges and atoms of two structures, as `forward` wants them."""
    system = random_system([7, 12], True)
    n = neighbor_list(system.positions, system.cell, system.pbc, CUTOFF, system.batch)
    return n.edge_vec, n.edge_index, system.atom_types, system.batch


@pytest.mark.parametrize("noise", ["none", "total", "local", "local-deep", "white"])
@pytest.mark.parametrize(
    ("form", "more"),
    [(Scored, (2, "")), (Scored, (2, "mean")), (Scored, (2, "max")), (Share, ())],
    ids=["forward", "mean-score", "max-score", "share"],
)
def test_evaluation_waits_for_nothing(noise, form, more):
    edge_vec, edge_index, atom_types, batch = system()
    model = form(InferencePotential(with_everything(noise)))
    arguments = (edge_vec, edge_index, atom_types, batch, *more)
    if form is Share:
        arguments = (edge_vec, edge_index, atom_types, torch.zeros_like(batch), torch.arange(len(batch)))
    want, got = model(*arguments), on_fake_cuda(model, *arguments)
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert (a.shape, a.dtype, a.device.type) == (b.shape, b.dtype, "cuda")


def test_a_wait_is_found():
    class Waits(torch.nn.Module):
        def forward(self, x):
            return x[torch.nonzero(x > 0)]

    with pytest.raises(DynamicOutputShapeException):
        on_fake_cuda(Waits(), torch.ones(3))


def test_mixtures_by_type_score_all_atoms(monkeypatch):
    """As on CUDA, where rows are not picked: each atom still has the score of its own type's mixture."""
    mixture = with_everything("none").mixture
    features, types = torch.randn(11, mixture.means.shape[1], dtype=torch.float64), torch.arange(11) % 3
    want = [mixture(features, types), *mixture.score_and_slope(features, types)]
    monkeypatch.setattr("uqforce.model.mixture.whole", lambda rows: True)
    got = [mixture(features, types), *mixture.score_and_slope(features, types)]
    for a, b in zip(got, want):
        assert torch.equal(a, b)

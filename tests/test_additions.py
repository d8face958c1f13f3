"""What it takes to add an architecture, a form of noise, a score or an export format: one of each, made here.

Each is a module of its own and a line of a registry; everything else, files, forms and exports, follows.
"""

import math

import pytest
import torch
from torch import Tensor, nn

import uqforce
from tests.model.systems import TYPES, evaluate, make_potential, random_system
from uqforce.errors import ModelError
from uqforce.exporting.exported_potential import ExportedPotential
from uqforce.exporting.formats import FORMATS, Format
from uqforce.model import Graph, InferencePotential, ModelConfig, Potential, load_model, save_model
from uqforce.model.backbone import ARCHITECTURES
from uqforce.model.embedding import Edges
from uqforce.model.form import SCORES
from uqforce.model.graph import own_types
from uqforce.model.noise.terms import DTYPES, Head, HeadNoise, NoiseTerms, positive
from uqforce.model.noise.total import total_of
from uqforce.model.noise_forms import NOISE_FORMS, NoiseForm
from uqforce.model.quantities import QUANTITIES

SMALL = {"num_layers": 2, "l_max": 1, "num_features": [4, 3]}
SYSTEM = random_system([5, 6], periodic=True)


class Pairs(nn.Module):
    """An architecture: features of an atom are sums over its neighbours of functions of the distance."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dtype, self.num_last_features = DTYPES[config.dtype], 3
        self.weight = nn.Parameter(torch.randn(3, config.heads, dtype=self.dtype))
        self.register_buffer("scales", torch.ones(len(config.type_names), dtype=torch.float64))
        self.r_max = config.r_max

    def embed(self, graph: Graph) -> Edges:
        length = torch.linalg.vector_norm(graph.edge_vec, dim=1, keepdim=True) / self.r_max
        return Edges(graph.edge_vec, length, length, length, None)

    def features(self, edges: Edges, graph: Graph) -> Tensor:
        x = edges.scaled_length
        rows = torch.cat([torch.sin(math.pi * k * x) * (1 - x).square() for k in (1, 2, 3)], 1)
        none = rows.new_zeros(graph.atom_types.shape[0], 3)
        return none.index_add(0, graph.edge_index[0], rows).to(self.dtype)

    def energies(self, features: Tensor, edges: Edges, graph: Graph) -> Tensor:
        return torch.mm(features, self.weight).t().to(torch.float64)

    @torch.jit.unused
    def last_layer(self) -> nn.Parameter:
        return self.weight

    def energy_scales(self, atom_types: Tensor) -> Tensor:
        return self.scales[atom_types]


def test_an_architecture(monkeypatch, tmp_path):
    monkeypatch.setitem(ARCHITECTURES, "pairs", Pairs)
    config = ModelConfig(type_names=TYPES, r_max=3.5, heads=2, noise="total", dtype="float64")
    potential = Potential(config, "pairs").eval()
    potential.set_mixture(torch.zeros(1, 3), torch.eye(3)[None], torch.zeros(1))
    potential.rigidity.store(torch.eye(3))
    want = evaluate(potential, SYSTEM)
    assert {"nll", "llpr", "forces_uncertainty_aleatoric", "forces_ensemble"} <= set(want.as_dict())
    step = torch.zeros_like(SYSTEM.positions)
    step[2, 1] = 1e-5
    ahead, behind = (
        evaluate(potential, SYSTEM._replace(positions=SYSTEM.positions + sign * step)) for sign in (1, -1)
    )
    slope = (ahead.energy.sum() - behind.energy.sum()) / 2e-5
    torch.testing.assert_close(-slope, want.forces[2, 1], rtol=1e-6, atol=1e-8)

    save_model(potential, tmp_path / "pairs.uqf")
    loaded = load_model(tmp_path / "pairs.uqf")
    assert loaded.architecture == "pairs" and torch.equal(evaluate(loaded, SYSTEM).forces, want.forces)
    exported = ExportedPotential(loaded, tabulation=0)
    assert exported.carries == list(want.as_dict())
    torch.jit.freeze(torch.jit.script(exported), preserved_attrs=["domain", "nll_gradient"])
    with pytest.raises(ModelError, match="architecture pairs has no inference form"):
        InferencePotential(loaded)
    monkeypatch.delitem(ARCHITECTURES, "pairs")
    with pytest.raises(ModelError, match="'pairs' is not one of nequip"):
        load_model(tmp_path / "pairs.uqf")


class Half(HeadNoise):
    """A form of noise: half the variance of the perceptron's, the process one of the whole structure."""

    def __init__(self, config: ModelConfig, num_features: int, members: int) -> None:
        super().__init__(config, num_features, members)
        self.head = Head(members, [num_features, 4, 1], len(config.type_names), DTYPES[config.dtype])

    def terms_of(self, u: Tensor, features: Tensor, graph: Graph) -> NoiseTerms:
        variances = 0.5 * positive(u)
        variance = total_of(variances, graph)
        sigma = torch.sqrt(variance)
        return NoiseTerms(variances, variance, variances, variance, sigma, sigma.sum(1))

    def scalar_gradients(self, u: Tensor, terms: NoiseTerms, graph: Graph) -> Tensor:
        return 0.5 * torch.sigmoid(u) * (0.5 / terms.sigmas)[:, graph.batch]


def test_a_form_of_noise(monkeypatch):
    """Its mathematics is written once: the explicit derivatives are those of autograd."""
    monkeypatch.setitem(NOISE_FORMS, "half", NoiseForm("tests.test_additions:Half", "half as much"))
    potential = make_potential(noise="half", heads=2, **SMALL)
    want, got = evaluate(potential, SYSTEM), evaluate(InferencePotential(potential), SYSTEM)
    assert want.virial_covariance is not None and want.as_dict().keys() == got.as_dict().keys()
    for name, value in want.as_dict().items():
        bound = 1e-8 * max(1.0, value.abs().max().item())
        torch.testing.assert_close(getattr(got, name), value, rtol=0, atol=bound)
    monkeypatch.delitem(NOISE_FORMS, "half")
    with pytest.raises(ValueError, match="noise 'half' is not one of none, total"):
        make_potential(noise="half", **SMALL)


class Distance(nn.Module):
    """A score: how far an atom's features are from those of a typical one, in the place of the rigidity."""

    def __init__(self, num_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("typical", torch.zeros(num_features, dtype=dtype))

    def forward(self, features: Tensor, scales: Tensor, graph: Graph) -> dict[str, Tensor]:
        return {"llpr": (features.detach() - self.typical).norm(dim=1).to(torch.float64)}


def test_a_score(monkeypatch, tmp_path):
    monkeypatch.setitem(SCORES, "rigidity", Distance)
    potential = make_potential(**SMALL)
    potential.rigidity.typical.fill_(0.5)
    save_model(potential, tmp_path / "distance.uqf")
    inference = InferencePotential(load_model(tmp_path / "distance.uqf"))
    want, got = evaluate(potential, SYSTEM), evaluate(inference, SYSTEM)
    torch.testing.assert_close(want.llpr, (want.features - 0.5).norm(dim=1))
    torch.testing.assert_close(got.llpr, want.llpr, rtol=1e-7, atol=1e-9)
    module = ExportedPotential(potential)
    assert "llpr" in module.carries and len(own_types(Graph(*arguments()))) == 54
    torch.testing.assert_close(module(*arguments())["llpr"], inference(*arguments()).llpr)


def arguments() -> tuple:
    return uqforce.model.sample_structure(make_potential(**SMALL))


def write_words(model, path, tabulation) -> dict:
    """An export format: what the model carries, a word a line."""
    names = ExportedPotential(model, tabulation).carries
    path.write_text("\n".join(names))
    description = {"type_names": model.config.type_names, "cutoff": model.config.r_max, "dtype": "float64"}
    return description | {"outputs": {name: QUANTITIES[name].unit for name in names}, "tabulation": {}}


def test_an_export_format(monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, "words", Format("*.txt", "people", "tests.test_additions:write_words"))
    description = uqforce.export(make_potential(**SMALL), tmp_path / "model.txt", format="words")
    assert (tmp_path / "model.txt").read_text().splitlines() == list(description["outputs"])

"""gmm_nll: the mixture's negative log-likelihood, its gradient and Hessian-vector product."""

from functools import partial

import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from tests.ops.op_case import OpCase
from uqforce.ops import gmm_nll
from uqforce.reference.gmm_nll import gmm_nll as reference

SIZES = [(0, 3, 2), (1, 1, 1), (5, 7, 3), (100, 16, 20), (333, 33, 5), (40, 128, 4), (200, 19, 7)]  # N, D, M


def make_mixture(components: int, dim: int, seed: int = 0) -> list[Tensor]:
    """means, precisions_cholesky, log_weights in float64; overlapping, with condition numbers near 100."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(components, dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
    covariance = normal @ normal.mT + 0.05 * torch.eye(dim)
    identity = torch.eye(dim, dtype=torch.float64).expand_as(covariance)
    factor = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), identity, upper=False)
    means = torch.randn(components, dim, generator=generator, dtype=torch.float64)
    log_weights = torch.randn(components, generator=generator, dtype=torch.float64).log_softmax(0)
    return [means, factor.mT.contiguous(), log_weights]


def make_case(
    atoms: int, dim: int, components: int, device, dtype=torch.float64
) -> tuple[Tensor, list[Tensor]]:
    mixture = [t.to(device, dtype) for t in make_mixture(components, dim)]
    features = torch.randn(atoms, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return features.to(device, dtype), mixture


def inputs(atoms, dim, components):
    features, mixture = make_case(atoms, dim, components, "cpu")
    return features, *mixture


def spoiled_below(arguments):
    """Numbers below the diagonal, which are not read."""
    features, means, factor, log_weights = arguments
    return features, means, factor + torch.ones_like(factor).tril(-1), log_weights


def calls(features, *mixture):
    """Every schema of the mixture, with arguments of its own."""
    vector = torch.randn_like(features).requires_grad_()
    yield "gmm_nll_hvp", (features, *mixture, vector)
    features = features.clone().requires_grad_()
    yield "gmm_nll", (features, *mixture)
    yield "gmm_nll_grad", (features, *mixture)


OP_CASES = [
    OpCase(
        gmm_nll,
        reference,
        differentiable=(0,),
        samples={str(sizes): partial(inputs, *sizes) for sizes in SIZES},
        tiny={"6 atoms": partial(inputs, 6, 5, 4)},
        edges={
            "70000 atoms": partial(inputs, 70_000, 3, 2),
            "below the diagonal": lambda: spoiled_below(inputs(50, 3, 2)),
        },
        many={"3001 atoms": partial(inputs, 3001, 17, 9)},
        called={f"{atoms} atoms": partial(inputs, atoms, 6, 3) for atoms in (0, 9)},
        calls=calls,
        tolerance={torch.float32: 1e-4, torch.float64: 1e-11},
        refusal="third derivatives",
        isa_eps=1000,
    )
]


@pytest.mark.parametrize("distance", [0.3, 1.0, 4.0])
def test_components_near_and_far(distance, device, dtype):
    """Components that cannot matter are not computed: the same value and gradient, whoever stands beside."""
    means, factor, log_weights = make_mixture(12, 64)
    mixture = [t.to(device, dtype) for t in (distance * means, factor, log_weights)]
    generator = torch.Generator().manual_seed(3)
    noise = torch.linalg.solve_triangular(
        factor.mT, torch.randn(12, 64, 40, generator=generator, dtype=torch.float64), upper=False
    )
    features = (distance * means[:, :, None] + noise).mT.reshape(-1, 64)
    features = features[torch.randperm(480, generator=generator)].to(device, dtype)
    value, grad = torch.ops.uqforce.gmm_nll_grad(features, *mixture)
    exact = features.double().requires_grad_()
    expected = reference(exact, *[t.double() for t in mixture])
    (expected_grad,) = torch.autograd.grad(expected.sum(), exact)
    tolerance = {"atol": 1e-3, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 1e-11, "rtol": 1e-11}
    torch.testing.assert_close(value.double(), expected, **tolerance)
    torch.testing.assert_close(grad.double(), expected_grad, **tolerance)
    order = torch.randperm(480, generator=generator)[:77].to(device)
    again, grad_again = torch.ops.uqforce.gmm_nll_grad(features[order], *mixture)
    assert torch.equal(again, value[order]) and torch.equal(grad_again, grad[order])


def test_equals_scikit_learn(device):
    data = torch.randn(500, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    data[:250] += 3
    fit = GaussianMixture(4, random_state=0).fit(data)
    mixture = [torch.as_tensor(a).to(device) for a in (fit.means_, fit.precisions_cholesky_)]
    value = gmm_nll(data.to(device), *mixture, torch.as_tensor(fit.weights_).log().to(device))
    torch.testing.assert_close(value.cpu(), -torch.as_tensor(fit.score_samples(data)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_float32_accuracy_in_the_domain(scale, device):
    """Features far from the origin and of any scale, drawn from a mixture with reg_covar-like variances."""
    means, factor, log_weights = make_mixture(10, 32)
    means, factor = scale * (means + 20), factor / scale
    noise = torch.linalg.solve_triangular(
        factor.mT, torch.randn(10, 32, 50, dtype=torch.float64), upper=False
    )
    features = (means[:, :, None] + noise).mT.reshape(-1, 32).float()
    single = [t.float() for t in (means, factor, log_weights)]
    value = gmm_nll(features.to(device), *[t.to(device) for t in single]).cpu().double()
    expected = reference(features.double(), *[t.double() for t in single])
    torch.testing.assert_close(value, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dim", [24, 32, 64])
def test_float32_error_is_that_of_float32(dim, device):
    """Correlated features with standard deviations from 1 to 0.01, as networks have them: value and gradient
    are as near to float64's as those of the definition in float32, however the products are formed."""
    generator = torch.Generator().manual_seed(4)
    rotation = torch.linalg.qr(torch.randn(6, dim, dim, generator=generator, dtype=torch.float64))[0]
    deviations = torch.logspace(0, -2, dim, dtype=torch.float64)
    covariance = rotation * deviations.square() @ rotation.mT
    factor = torch.linalg.inv(torch.linalg.cholesky(covariance)).mT
    means = 0.3 * torch.randn(6, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(6, 40, dim, generator=generator, dtype=torch.float64) * deviations
    features = (means[:, None] + noise @ rotation.mT).reshape(-1, dim).float()
    mixture = [t.float() for t in (means, factor, torch.zeros(6).log_softmax(0))]
    errors = []
    exact = features.double().requires_grad_()
    wanted = reference(exact, *[t.double() for t in mixture])
    (wanted_grad,) = torch.autograd.grad(wanted.sum(), exact)
    for function, where in ((reference, "cpu"), (gmm_nll, device)):
        x = features.to(where).requires_grad_()
        value = function(x, *[t.to(where) for t in mixture])
        (grad,) = torch.autograd.grad(value.sum(), x)
        differences = (value.cpu().double() - wanted, grad.cpu().double() - wanted_grad)
        errors.append([d.square().mean().sqrt().item() for d in differences])
    theirs, ours = errors
    assert ours[0] < 1.5 * theirs[0] and ours[1] < 1.5 * theirs[1], errors


def test_far_outside(device, dtype):
    """Where every density underflows, the value is still that of the best component."""
    features, mixture = make_case(3, 5, 4, device, dtype)
    value = gmm_nll(features * 1e4, *mixture)
    expected = reference(features.double() * 1e4, *[t.double() for t in mixture])
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("atoms", "dim", "components"), [(100, 16, 20), (333, 33, 5)])
def test_hessian_product_equals_reference(atoms, dim, components, device, dtype):
    features, mixture = make_case(atoms, dim, components, device, dtype)
    vector = torch.randn_like(features)
    product = torch.ops.uqforce.gmm_nll_hvp(features, *mixture, vector)
    exact = features.double().requires_grad_()
    value = reference(exact, *[t.double() for t in mixture])
    (grad,) = torch.autograd.grad(value.sum(), exact, create_graph=True)
    (expected,) = torch.autograd.grad((grad * vector.double()).sum(), exact)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(
        product.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max()
    )


def test_an_atom_does_not_depend_on_the_others(device, dtype):
    features, mixture = make_case(70_000, 3, 2, device, dtype)
    value = gmm_nll(features, *mixture)
    assert torch.equal(gmm_nll(features[65_530:65_540], *mixture), value[65_530:65_540])
    with torch.no_grad():
        assert torch.equal(gmm_nll(features.requires_grad_(), *mixture), value)


def test_zero_weight_and_nan(device, dtype):
    """A component of weight 0 never counts; a NaN feature spoils its own atom only."""
    features, mixture = make_case(5, 3, 3, device, dtype)
    log_weights = mixture[2].clone()
    log_weights[1] = -torch.inf
    kept = [t[[0, 2]] for t in (*mixture[:2], log_weights)]
    features.requires_grad_()
    value = gmm_nll(features, *mixture[:2], log_weights)
    torch.testing.assert_close(value, gmm_nll(features, *kept))
    spoiled = features.detach().clone()
    spoiled[2, 1] = torch.nan
    value, grad = torch.ops.uqforce.gmm_nll_grad(spoiled, *mixture)
    assert value.isnan().tolist() == [False, False, True, False, False]
    assert grad.isnan().any(1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, mu, P, w: (x[0], mu, P, w), ValueError, "features has shape"),
        (lambda x, mu, P, w: (x, mu[:, :2], P, w), ValueError, "means has shape"),
        (lambda x, mu, P, w: (x, mu, P[:1], w), ValueError, "precisions_cholesky has shape"),
        (lambda x, mu, P, w: (x, mu, P, w[:1]), ValueError, "log_weights has shape"),
        (lambda x, mu, P, w: (x, mu[:0], P[:0], w[:0]), ValueError, "at least one component"),
        (lambda x, mu, P, w: (x.half(), mu, P, w), TypeError, "features is Half"),
        (lambda x, mu, P, w: (x, mu.float(), P, w), TypeError, "means is Float but features is Double"),
        (lambda x, mu, P, w: (x, mu.to("meta"), P, w), ValueError, "means is on meta"),
        (lambda x, mu, P, w: (x, mu.clone().requires_grad_(), P, w), RuntimeError, "pass means.detach"),
    ],
)
def test_errors(change, error, message, device):
    features, mixture = make_case(4, 3, 2, device)
    with pytest.raises(error, match=message):
        gmm_nll(*change(features, *mixture))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mu, P, w: (mu / 0, P, w), "means holds values that are not finite"),
        (lambda mu, P, w: (mu, P / 0, w), "precisions_cholesky holds"),
        (lambda mu, P, w: (mu, -P, w), "not positive and finite"),
        (lambda mu, P, w: (mu, P, w / 0 * -1), "log_weights.0. is inf"),
    ],
)
def test_parameters_that_are_no_mixture(change, message, device, cuda_kernels):
    """An error; on CUDA, where to look at values would stall the stream, NaN for every atom."""
    features, mixture = make_case(4, 3, 2, device)
    if cuda_kernels:
        assert all(t.isnan().all() for t in torch.ops.uqforce.gmm_nll_grad(features, *change(*mixture)))
        return
    with pytest.raises(ValueError, match=message):
        gmm_nll(features, *change(*mixture))

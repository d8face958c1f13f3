"""The mixture's negative log-likelihood against scikit-learn and against plain torch with gradients.

Features are drawn from the mixture, as those of a model near its training data are; its components overlap,
or stand "apart", as those of trained models do (on 3BPA at 600 K an atom is near 1.02 of 20). Plain torch is
what a model without a kernel would do: a [M,n,D] array of whitened features through batched matrix products,
for all atoms at once or (where it is fastest) n = 512 at a time. Counted operations: D (D + 1) for each
product with a triangular factor, one for the value, two with the gradient, five with a Hessian's product too;
also of components that uqforce does not compute because bounds rule them out.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from timing import Case, Work
from torch import Tensor

ATOMS, CHUNK = 20_000, 512


@cache
def inputs(dim: int, components: int, dtype: torch.dtype, spread: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """Features and means, precisions_cholesky, log_weights."""
    generator = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    root = normal(components, dim, dim) / dim**0.5
    cholesky = torch.linalg.cholesky(root @ root.mT + 0.1 * torch.eye(dim))
    identity = torch.eye(dim, dtype=torch.float64).expand_as(cholesky)
    factor = torch.linalg.solve_triangular(cholesky, identity, upper=False).mT.contiguous()
    means = spread * normal(components, dim)
    features = means[:, None] + normal(components, ATOMS // components, dim) @ cholesky.mT
    features = features.view(ATOMS, dim)[torch.randperm(ATOMS, generator=generator)]
    log_weights = torch.full((components,), -math.log(components), dtype=torch.float64)
    return features.to(dtype), [tensor.to(dtype) for tensor in (means, factor, log_weights)]


def torch_nll(features: Tensor, means: Tensor, factor: Tensor, log_weights: Tensor) -> Tensor:
    whitened = features @ factor - means[:, None] @ factor  # [M,n,D]
    log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    log_gauss = (log_det + log_weights)[:, None] - 0.5 * whitened.square().sum(2)
    return 0.5 * features.shape[1] * math.log(2 * math.pi) - log_gauss.logsumexp(0)


def value(function: Callable[..., Tensor], features: Tensor, mixture: list[Tensor]) -> Tensor:
    return function(features, *mixture)


def gradient(function: Callable[..., Tensor], features: Tensor, mixture: list[Tensor]) -> Tensor:
    leaf = features.detach().requires_grad_()
    return torch.autograd.grad(function(leaf, *mixture).sum(), leaf)[0]


def hessian_product(function: Callable[..., Tensor], features: Tensor, mixture: list[Tensor]) -> Tensor:
    leaf = features.detach().requires_grad_()
    (first,) = torch.autograd.grad(function(leaf, *mixture).sum(), leaf, create_graph=True)
    return torch.autograd.grad(first.square().sum(), leaf)[0]


def ours(what: Callable, *size) -> Callable[[], Tensor]:
    from uqforce.ops import gmm_nll

    return partial(what, gmm_nll, *inputs(*size))


def plain_torch(what: Callable, chunk: int, *size) -> Callable[[], Tensor]:
    features, mixture = inputs(*size)
    chunks = features.split(chunk)
    return lambda: torch.cat([what(torch_nll, part, mixture) for part in chunks])


def scikit_learn(*size) -> Callable[[], Tensor]:
    from sklearn.mixture import GaussianMixture

    features, (means, factor, log_weights) = inputs(*size)
    rival = GaussianMixture(len(means))
    rival.means_, rival.weights_ = means.numpy(), log_weights.exp().numpy()
    rival.precisions_cholesky_ = factor.numpy()
    rows = features.numpy()
    return lambda: -torch.as_tensor(rival.score_samples(rows))


APART = 3.0
WORKLOADS = [  # features, components, dtype, spread of the means, what, plain torch's chunks
    (32, 50, torch.float32, 1.0, value, (CHUNK, ATOMS)),
    (32, 50, torch.float32, 1.0, gradient, (CHUNK, ATOMS)),
    (32, 50, torch.float32, 1.0, hessian_product, (CHUNK,)),
    (32, 50, torch.float64, 1.0, value, (CHUNK,)),
    (128, 20, torch.float32, 1.0, value, (CHUNK,)),
    (128, 20, torch.float32, 1.0, gradient, (CHUNK, ATOMS)),
    (128, 20, torch.float32, APART, value, (CHUNK,)),
    (128, 20, torch.float32, APART, gradient, (CHUNK, ATOMS)),
]


def work(dim: int, components: int, dtype: torch.dtype, what: Callable, atoms: int = ATOMS) -> Work:
    products = {value: 1, gradient: 2, hessian_product: 5}[what]
    vectors = atoms * dim * (1 if what is value else 2)
    return Work(
        bytes=dtype.itemsize * (vectors + atoms + components * dim * (dim + 1)),
        flops=products * atoms * components * dim * (dim + 1),
        dtype=str(dtype).removeprefix("torch."),
    )


def cases() -> Iterator[Case]:
    for *size, what, chunks in WORKLOADS:
        dim, components, dtype, spread = size
        rivals = {"uqforce": partial(ours, what, *size)}
        if what is value:
            rivals["scikit-learn"] = partial(scikit_learn, *size)
        for chunk in chunks:
            rivals[f"torch, {chunk} at a time"] = partial(plain_torch, what, chunk, *size)
        check = torch.testing.assert_close if dtype == torch.float64 else None
        apart = " apart" if spread == APART else ""
        name = f"{what.__name__.replace('_', ' ')}, {dim} features, {components} components{apart}"
        least = work(dim, components, dtype, what)
        options = {"memory": what is gradient}
        if what is not hessian_product:
            aim = (7, "scikit-learn") if what is value else (25, f"torch, {ATOMS} at a time")
            options |= dict(zip(("target", "against"), aim))
        yield Case(f"{name}, {least.dtype}", "atom", ATOMS, rivals, check, least, **options)

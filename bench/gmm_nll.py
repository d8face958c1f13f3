"""The mixture's negative log-likelihood against scikit-learn: 20 000 atoms, 32 features, 50 components."""

from collections.abc import Iterator

import torch
from timing import Case

ATOMS, FEATURES, COMPONENTS = 20_000, 32, 50


def cases() -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ATOMS, FEATURES, generator=generator, dtype=torch.float64)
    means = torch.randn(COMPONENTS, FEATURES, generator=generator, dtype=torch.float64)
    factor = torch.randn(COMPONENTS, FEATURES, FEATURES, generator=generator, dtype=torch.float64)
    factor = (0.1 * factor + 2 * torch.eye(FEATURES)).triu()
    weights = torch.full((COMPONENTS,), 1 / COMPONENTS, dtype=torch.float64)

    for dtype in (torch.float32, torch.float64):
        features = x.to(dtype)
        mixture = [tensor.to(dtype) for tensor in (means, factor, weights.log())]

        def ours(features=features, mixture=mixture):
            from uqforce.ops import gmm_nll

            return lambda: gmm_nll(features, *mixture)

        def ours_with_gradient(features=features, mixture=mixture):
            from uqforce.ops import gmm_nll

            leaf = features.clone().requires_grad_()
            return lambda: torch.autograd.grad(gmm_nll(leaf, *mixture).sum(), leaf)[0]

        def scikit_learn(features=features, dtype=dtype):
            from sklearn.mixture import GaussianMixture

            rival = GaussianMixture(COMPONENTS)
            rival.means_, rival.weights_ = means.to(dtype).numpy(), weights.to(dtype).numpy()
            rival.precisions_cholesky_ = factor.to(dtype).numpy()
            rows = features.numpy()
            return lambda: -torch.as_tensor(rival.score_samples(rows))

        name = str(dtype).removeprefix("torch.")
        check = torch.testing.assert_close if dtype == torch.float64 else None
        yield Case(f"value, {name}", "atom", ATOMS, {"uqforce": ours, "scikit-learn": scikit_learn}, check)
        yield Case(f"value and gradient, {name}", "atom", ATOMS, {"uqforce": ours_with_gradient})

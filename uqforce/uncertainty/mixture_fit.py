"""A Gaussian mixture over the features of the training atoms: `nll` says how far from them an atom is.

Zhu, Batzner, Musaelian, Kozinsky, J. Chem. Phys. 158, 164111 (2023): full covariances, EM from a k-means
start on all atoms of the training set, the number of components by the Bayesian information criterion (BIC).
Diagonal and tied covariances are stored as full ones: only the fit knows of them.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from uqforce import ops
from uqforce.data import Dataset, ordered_batches
from uqforce.errors import MixtureError
from uqforce.model import Potential
from uqforce.model.predict import graph_of

COMPONENTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 50)  # tried in turn when not given
PATIENCE = 3  # counts tried without a better BIC before the search ends
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
COVARIANCES = ("full", "diag", "tied")  # of each component, its variances alone, one for all components
RELATIVE_FLOOR = 1e-6  # added to each variance, in units of the mean variance of the features


class Trial(NamedTuple):
    """One fit of the search: `bic = -2 N log_likelihood + parameters ln N`, lower is better."""

    components: int
    bic: float
    log_likelihood: float  # mean per atom, nats
    converged: bool
    iterations: int


class MixtureFit(NamedTuple):
    """A fitted mixture in scikit-learn's conventions, float64, and how it was found.

    It is one of K scalars: the features themselves, or `features @ projection`.
    """

    means: torch.Tensor  # [M, K]
    precisions_cholesky: torch.Tensor  # [M, K, K] upper triangular, precision = P P^T
    log_weights: torch.Tensor  # [M]
    trials: list[Trial]
    quantiles: dict[str, float]  # of the training atoms' nll; "max" is the largest
    flat_directions: int  # of the K, those in which the training atoms do not vary
    projection: torch.Tensor | None  # [D, K] orthonormal columns, the leading principal components
    explained: float  # fraction of the features' variance that the K scalars have
    of_types: "list[MixtureFit] | None" = None  # the mixture of each type, one after the other in the above

    def nll(self, features: torch.Tensor, atom_types: torch.Tensor | None = None) -> torch.Tensor:
        """features [N, D], types [N] where there is a mixture for each -> scores [N] float64."""
        features = features.double()
        if self.of_types is not None:
            score = features.new_zeros(len(features))
            for kind, fit in enumerate(self.of_types):
                score[atom_types == kind] = fit.nll(features[atom_types == kind])
            return score
        if self.projection is not None:
            features = features @ self.projection
        return ops.gmm_nll(features, self.means, self.precisions_cholesky, self.log_weights)

    @property
    def chosen(self) -> Trial:
        return next(trial for trial in self.trials if trial.components == len(self.means))


def fit_mixture(
    features,
    n_components: int | None = None,
    *,
    covariance: str = "full",
    projection: int | None = None,
    seed: int = 0,
    max_iter: int = 100,
    tol: float = 1e-3,
    on_trial: Callable[[Trial], None] | None = None,
) -> MixtureFit:
    """Fit a mixture to features [N, D] by scikit-learn's EM (k-means start, one start).

    Without `n_components` the counts in `COMPONENTS` are tried in turn, as long as every component can have
    the atoms that its covariance needs (full: D + 1, else 2), and the one of lowest BIC is taken; the search
    ends after `PATIENCE` counts without a better one. `covariance` is one of `COVARIANCES`. With
    `projection` K the mixture is one of the features' K leading principal components. The variance floor
    scales with the features, so that the same mixture is found in any unit; directions in which they do not
    vary get the floor as their variance. `on_trial` is called with each trial as it ends.

    Raises:
        MixtureError: features not [N, D], not finite, or all equal; too few atoms for `n_components`;
            an unknown `covariance`; a `projection` that is not from 1 to D.
    """
    if covariance not in COVARIANCES:
        raise MixtureError(f"covariance must be one of {', '.join(COVARIANCES)}, got {covariance!r}")
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or 0 in features.shape:
        raise MixtureError(f"features must be [N, D] with at least one atom, got shape {features.shape}")
    if not np.isfinite(features).all():
        atoms = np.flatnonzero(~np.isfinite(features).all(axis=1))
        raise MixtureError(f"features of {len(atoms)} atoms are not finite, the first is atom {atoms[0]}")
    count, dim = features.shape
    if projection is not None and not 1 <= projection <= dim:
        raise MixtureError(f"cannot project {dim} features to {projection} principal components")
    spread, axes = np.linalg.eigh(np.cov(features.T, bias=True).reshape(dim, dim))
    explained = 1.0
    if projection is not None:
        axes = np.ascontiguousarray(axes[:, : -projection - 1 : -1])
        explained = float(spread[-projection:].sum() / spread.sum())
        features, spread, dim = features @ axes, spread[-projection:], projection
    floor = RELATIVE_FLOOR * spread.mean()
    if floor <= np.finfo(np.float64).eps ** 2 * np.square(features).mean():
        raise MixtureError(f"the features of all {count} atoms are equal: a mixture cannot tell atoms apart")
    if n_components is not None and not 1 <= n_components <= count:
        raise MixtureError(f"cannot fit {n_components} components to {count} atoms")

    largest = max(1, count // (dim + 1 if covariance == "full" else 2))
    counts = [n for n in COMPONENTS if n <= largest] if n_components is None else [n_components]
    trials: list[Trial] = []
    best = None
    for n in counts:
        mixture = GaussianMixture(
            n, covariance_type=covariance, tol=tol, max_iter=max_iter, reg_covar=floor, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported in the trial
            mixture.fit(features)
        trial = Trial(n, mixture.bic(features), mixture.score(features), mixture.converged_, mixture.n_iter_)
        trials.append(trial)
        if on_trial is not None:
            on_trial(trial)
        if best is None or trial.bic < best[0].bic:
            best = trial, mixture
        elif len(trials) - trials.index(best[0]) > PATIENCE:
            break

    mixture = best[1]
    quantiles = quantiles_of(-mixture.score_samples(features))
    return MixtureFit(
        torch.from_numpy(mixture.means_),
        torch.from_numpy(full_precisions(mixture)),
        torch.from_numpy(mixture.weights_).log(),
        trials,
        quantiles,
        int(np.count_nonzero(spread < floor)),
        None if projection is None else torch.from_numpy(axes),
        explained,
    )


def fit_per_type(features, atom_types, type_names: list[str], *args, **settings) -> MixtureFit:
    """`fit_mixture` for the atoms of each type [N] by themselves, the mixtures one after the other.

    Raises:
        MixtureError: a type without atoms, which would have no score; a projection, of which each type would
            want its own; or as `fit_mixture`, naming the type.
    """
    if settings.get("projection") is not None:
        raise MixtureError("a projection and mixtures per type do not go together: leave one of them out")
    features, atom_types = np.asarray(features, dtype=np.float64), np.asarray(atom_types)
    fits = []
    for kind, name in enumerate(type_names):
        try:
            if not (atom_types == kind).any():
                raise MixtureError("the training set has no such atom")
            fits.append(fit_mixture(features[atom_types == kind], *args, **settings))
        except MixtureError as error:
            raise MixtureError(f"mixture of {name}: {error}") from error
    joined = MixtureFit(
        *(torch.cat([getattr(fit, name) for fit in fits]) for name in MixtureFit._fields[:3]),
        trials=[], quantiles={}, flat_directions=max(fit.flat_directions for fit in fits), projection=None,
        explained=1.0, of_types=fits,
    )  # fmt: skip
    nll = joined.nll(torch.from_numpy(features), torch.from_numpy(atom_types)).numpy()
    return joined._replace(quantiles=quantiles_of(nll))


def quantiles_of(nll: np.ndarray) -> dict[str, float]:
    return {f"q{q:g}": float(np.quantile(nll, q)) for q in QUANTILES} | {"max": float(nll.max())}


def full_precisions(mixture: GaussianMixture) -> np.ndarray:
    """`precisions_cholesky_` of a fitted mixture of any of `COVARIANCES` as that of a full one, [M, D, D]."""
    factors = mixture.precisions_cholesky_
    if mixture.covariance_type == "diag":
        return factors[:, :, None] * np.eye(factors.shape[1])
    if mixture.covariance_type == "tied":
        return np.repeat(factors[None], mixture.n_components, axis=0)
    return factors


def collect_features(potential: Potential, dataset: Dataset, batch_size: int = 16) -> torch.Tensor:
    """The last features of all atoms of a data set, in its order: [N, D] in the model's dtype, on the CPU.

    Raises:
        MixtureError: the data set has other type names or another cutoff than the model.
    """
    config = potential.config
    wanted, found = (list(config.type_names), config.r_max), (list(dataset.type_names), dataset.cutoff)
    if wanted != found:
        raise MixtureError(
            f"the model has types and cutoff {wanted}, the data set {found}: build it for the model"
        )
    device = next(potential.parameters()).device
    with torch.no_grad():  # no forces: the network alone
        features = [
            potential.last_features(graph_of(batch)).cpu()
            for batch in ordered_batches(dataset, batch_size, device, title="features")
        ]
    return torch.cat(features)


def fit_potential(
    potential: Potential,
    dataset: Dataset,
    n_components: int | None = None,
    *,
    covariance: str = "full",
    projection: int | None = None,
    seed: int = 0,
    per_type: bool = False,
    on_trial: Callable[[Trial], None] | None = None,
) -> MixtureFit:
    """Fit the mixture, or with `per_type` one for the atoms of each type, and store it in the potential.

    The atoms are those of `dataset`, the training set.

    The card gets `mixture`, how it was fitted, and `thresholds["nll"]`, the quantiles of the training scores
    that calculators and dynamics know by name ("q0.99", "max").
    """
    potential.eval()
    features = collect_features(potential, dataset)
    settings: dict = {"covariance": covariance, "projection": projection, "seed": seed, "on_trial": on_trial}
    counts = None
    if per_type:
        names = potential.config.type_names
        fit = fit_per_type(features, collect_types(dataset), names, n_components, **settings)
        counts = torch.tensor([len(of_type.means) for of_type in fit.of_types])
        search = {"types": {name: search_of(of_type) for name, of_type in zip(names, fit.of_types)}}
    else:
        fit = fit_mixture(features, n_components, **settings)
        search = search_of(fit)
    potential.set_mixture(fit.means, fit.precisions_cholesky, fit.log_weights, fit.projection, counts)
    potential.card["mixture"] = {
        "components": len(fit.means),
        "covariance": covariance,
        "features": features.shape[1],
        "projection": projection,
        "explained_variance": fit.explained,
        "atoms": len(features),
        "structures": len(dataset),
        "flat_directions": fit.flat_directions,
        "seed": seed,
        **search,
    }
    potential.card.setdefault("thresholds", {})["nll"] = fit.quantiles
    return fit


def collect_types(dataset: Dataset) -> torch.Tensor:
    """Types of all atoms, in the order of `collect_features`: [N]."""
    return torch.tensor(dataset.atom_types)


def search_of(fit: MixtureFit) -> dict:
    """What the card keeps of the search for the number of components."""
    return {
        "components": len(fit.means),
        "trials": [trial._asdict() for trial in fit.trials],
        **{name: getattr(fit.chosen, name) for name in ("bic", "converged", "iterations")},
    }

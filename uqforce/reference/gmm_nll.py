"""Definition of `uqforce.ops.gmm_nll` in plain torch."""

import math

import torch
from torch import Tensor


def gmm_nll(features: Tensor, means: Tensor, precisions_cholesky: Tensor, log_weights: Tensor) -> Tensor:
    """-log p(x) [N] of features [N,D]; means [M,D], precisions_cholesky [M,D,D], log_weights [M]."""
    centred = features[:, None, :] - means  # [N,M,D]
    whitened = torch.einsum("nmi,mij->nmj", centred, precisions_cholesky.triu())
    log_det = precisions_cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
    log_gauss = log_det - 0.5 * (features.shape[1] * math.log(2 * math.pi) + whitened.square().sum(2))
    return -torch.logsumexp(log_weights + log_gauss, dim=1)

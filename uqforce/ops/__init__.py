"""One typed function per kernel."""

from uqforce.ops.gmm_nll import gmm_nll

__all__ = ["gmm_nll"]

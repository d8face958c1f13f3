"""What a file says of its `domain` to the engines that divide a structure among processes."""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from uqforce.model import sample_structure


class _Messages(TorchDispatchMode):
    """Notes the most bytes of an atom that are sent at once, to ghosts (forward) and to owners (reverse)."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = {"forward": 0, "reverse": 0}

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        ways = {"uqforce::ghost_exchange": "forward", "uqforce::ghost_exchange_vjp": "reverse"}
        if way := ways.get(op.name()):
            rows = args[0]  # [atoms, dim] or [K, atoms, dim]
            size = rows.element_size() * rows.shape[-1] * (rows.shape[0] if rows.dim() == 3 else 1)
            self.bytes[way] = max(self.bytes[way], size)
        return op(*args, **(kwargs or {}))


def domain_description(module: nn.Module) -> dict[str, Any]:
    """What an engine must know of `domain` of an `ExportedPotential`; nothing where it has none.

    `per_atom`: the uncertainties of atoms and their columns; `per_structure`: those of the whole structure;
    `one_variance`: whether they come of one process of it; and the most bytes of an atom in a message.
    """
    if not module.has_tables:
        return {}
    edge_vec, edge_index, atom_types, _, _ = sample_structure(module.potential)
    n = len(atom_types)
    with _Messages() as messages:
        out = module.domain(edge_vec, edge_index, atom_types, torch.arange(n), n, True, True)
    uncertain = {key: value for key, value in out.items() if key not in ("energies", "edge_gradient")}
    return {
        "per_atom": {key: value[0].numel() for key, value in uncertain.items() if len(value) == n},
        "per_structure": [key for key, value in uncertain.items() if len(value) == 1],
        "one_variance": module.potential.config.noise == "total",
        "forward_bytes": messages.bytes["forward"],
        "reverse_bytes": messages.bytes["reverse"],
    }

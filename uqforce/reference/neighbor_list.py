"""Neighbour lists and edge vectors in plain torch: every image of every pair is tried."""

import torch
from torch import Tensor


def neighbor_list(
    positions: Tensor, cell: Tensor, pbc: Tensor, cutoff: float, batch: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs with |edge_vec| < cutoff; see `uqforce.ops.neighbor_list`.

    Returns:
        edge_index [2, E], cell_shift [E, 3], edge_vec [E, 3], sorted by centre, neighbour, shift.
    """
    if batch is None:
        batch = torch.zeros(len(positions), dtype=torch.int64, device=positions.device)
    indices, shifts = [torch.zeros(2, 0).to(batch)], [torch.zeros(0, 3).to(batch)]
    for b in range(len(cell)):
        atoms = torch.nonzero(batch == b).flatten()
        index, shift = _pairs(positions[atoms].detach(), cell[b].detach(), pbc[b], cutoff)
        indices.append(atoms[index])
        shifts.append(shift)
    edge_index, cell_shift = torch.cat(indices, 1), torch.cat(shifts)
    return edge_index, cell_shift, edge_vectors(positions, cell, edge_index, cell_shift, batch)


def edge_vectors(
    positions: Tensor, cell: Tensor, edge_index: Tensor, cell_shift: Tensor, batch: Tensor | None = None
) -> Tensor:
    """r_j - r_i + cell_shift @ cell [E, 3]; see `uqforce.ops.edge_vectors`."""
    i, j = edge_index
    cell_of_edge = cell[0].expand(len(i), 3, 3) if batch is None else cell[batch[i]]
    return positions[j] - positions[i] + torch.einsum("ea,eak->ek", cell_shift.to(cell.dtype), cell_of_edge)


def _pairs(r: Tensor, cell: Tensor, pbc: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Pairs [2, E] and shifts [E, 3] of one structure, sorted."""
    counts = _images(r.double(), cell.double(), pbc, cutoff)
    grids = torch.meshgrid(*[torch.arange(-n, n + 1, device=r.device) for n in counts], indexing="ij")
    images = torch.stack(grids, -1).reshape(-1, 3)
    # [N, N, images]: already in the order centre, neighbour, shift
    vec = (r[None, :] - r[:, None])[:, :, None] + (images.to(r.dtype) @ cell)[None, None]
    itself = torch.eye(len(r), dtype=torch.bool, device=r.device)[:, :, None] & (images == 0).all(1)
    i, j, image = torch.nonzero((vec.norm(dim=-1) < cutoff) & ~itself, as_tuple=True)
    return torch.stack([i, j]), images[image]


def _images(r: Tensor, cell: Tensor, pbc: Tensor, cutoff: float) -> list[int]:
    """Cells to look at on either side: those the cutoff spans, and those by which atoms lie apart."""
    rows = cell[pbc]
    if len(rows) == 0 or len(r) == 0:
        return [0, 0, 0]
    inverse = torch.linalg.pinv(rows)  # [3, rows]; columns are the inverse heights of the cell
    fractional = r @ inverse
    spread = fractional.amax(0) - fractional.amin(0)
    needed = iter(torch.ceil(cutoff * inverse.norm(dim=0) + spread).int().tolist())
    return [next(needed) if periodic else 0 for periodic in pbc.tolist()]

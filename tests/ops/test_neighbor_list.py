"""neighbor_list, edge_vectors: their cases of the six tests, other programs' lists, and bad input."""

import itertools
from functools import partial

import ase
import ase.build
import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from vesin import NeighborList as VesinList

from tests.ops.op_case import OpCase
from uqforce.ops.neighbor_list import edge_vectors, neighbor_list
from uqforce.reference import neighbor_list as reference


def random_structure(rng, max_atoms=12, min_height=1.0):
    """Positions, cell, pbc, cutoff: triclinic, left-handed too, atoms outside the cell, sparse to dense."""
    n = int(rng.integers(1, max_atoms + 1))
    pbc = rng.random(3) < rng.choice([0.0, 0.5, 1.0], p=[0.15, 0.45, 0.4])
    size = rng.uniform(1.5, 8)
    while True:
        cell = rng.normal(size=(3, 3)) * size
        if rng.random() < 0.3:  # a skewed box
            cell = np.diag(rng.uniform(1.5, 8, 3)) @ (np.eye(3) + np.tril(rng.normal(size=(3, 3)), -1))
        if (1 / np.linalg.norm(np.linalg.inv(cell), axis=0)).min() > min_height:
            break
    spread = rng.choice([0.3, 1.0, 3.0])
    positions = rng.uniform(-spread, 1 + spread, size=(n, 3)) @ cell
    cell[~pbc] *= rng.integers(2)  # rows of directions that are not periodic mean nothing
    return positions, cell, pbc, rng.uniform(0.8, 4.5)


def tensors(positions, cell, pbc, dtype=torch.float64, device="cpu"):
    return (
        torch.tensor(positions, dtype=dtype, device=device),
        torch.tensor(cell, dtype=dtype, device=device)[None],
        torch.tensor(pbc, device=device)[None],
    )


def near_cutoff(distances, cutoff, margin=1e-9):
    return bool((np.abs(np.asarray(distances) - cutoff) < margin).any())


def crystal(repeat=2, noise=0.05, seed=0, dtype=torch.float64, device="cpu"):
    """Silicon, triclinic cell."""
    atoms = ase.build.bulk("Si") * (repeat, repeat, repeat)
    atoms.rattle(noise, seed=seed)
    return tensors(atoms.positions, atoms.cell.array, atoms.pbc, dtype, device)


def isolated(positions, cell, pbc):
    """The structure without periodicity."""
    return positions, cell, torch.zeros_like(pbc)


def batch_of(structures):
    """Positions, cell, pbc, batch of several structures (positions [N, 3], cell [1, 3, 3], pbc [1, 3])."""
    positions, cells, pbcs = zip(*structures)
    batch = torch.cat([torch.full((len(p),), b) for b, p in enumerate(positions)]).to(positions[0].device)
    return torch.cat(positions), torch.cat(cells), torch.cat(pbcs), batch


# ---- the six tests


def list_inputs(structures, cutoff=3.0):
    positions, cell, pbc, batch = batch_of([make() for make in structures])
    return positions, cell, pbc, cutoff, batch


def vector_inputs(structures, cutoff=3.0):
    """The edges of a list in another order."""
    positions, cell, _, _, batch = arguments = list_inputs(structures, cutoff)
    found = neighbor_list(*arguments)
    order = torch.randperm(found.edge_vec.shape[0], generator=torch.Generator().manual_seed(0))
    return positions, cell, found.edge_index[:, order], found.cell_shift[order], batch


def nothing(atoms=0, structures=1):
    """Atoms, one in each of the first cells, without neighbours."""
    return (
        torch.zeros(atoms, 3, dtype=torch.float64),
        10 * torch.eye(3, dtype=torch.float64).repeat(structures, 1, 1),
        torch.ones(structures, 3, dtype=torch.bool),
        3.0,
        torch.arange(atoms),
    )


def alone(periodic):
    """One atom that sees its own images, or nothing, in a cell smaller than the cutoff."""
    position, cell = torch.full((1, 3), 7.3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[None]
    return position, cell, torch.full((1, 3), periodic), 2.5, None


def calls_of_list(positions, cell, pbc, cutoff, batch):
    leaves = (positions.clone().requires_grad_(), cell.clone().requires_grad_())
    # opcheck's last test adds the float output to the sum of an integer one in place
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    yield "neighbor_list", (*leaves, pbc, cutoff, batch), *tests


def calls_of_vectors(positions, cell, edge_index, cell_shift, batch):
    leaves = (positions.clone().requires_grad_(), cell.clone().requires_grad_())
    yield "edge_vectors", (*leaves, edge_index, cell_shift, batch)
    grad = positions.new_ones(len(cell_shift), 3).requires_grad_()
    yield "edge_vectors_backward", (grad, edge_index, cell_shift, batch, len(positions), len(cell))


TWO = [partial(crystal, 1), partial(crystal, 1, seed=3)]
MIXED = [partial(crystal, n, 0.1, n) for n in (3, 1, 6)]
MIXED += [lambda make=make: isolated(*make()) for make in MIXED]
# Perfect crystals too, whose shells lie at the cutoff: rounding decides, and alike for every instruction set.
SHELLS = [partial(crystal, n, noise, n) for n, noise in ((3, 0.1), (1, 0), (6, 0), (4, 0), (5, 0))]
SHELLS += [lambda make=make: isolated(*make()) for make in SHELLS]
EMPTY = {"no atoms": nothing, "no structures": partial(nothing, 0, 0), "no pairs": partial(nothing, 1, 3)}
OP_CASES = [
    OpCase(
        neighbor_list,
        reference.neighbor_list,
        differentiable=(0, 1),
        csrc="neighbor_list",
        samples={"two crystals": partial(list_inputs, TWO), "crystals": partial(list_inputs, MIXED, 4.5)},
        tiny={"two crystals": partial(list_inputs, TWO)},
        edges={**EMPTY, "images": partial(alone, True), "no images": partial(alone, False)},
        many={"crystals": partial(list_inputs, MIXED, 4.5)},
        elsewhere={"shells at the cutoff": partial(list_inputs, SHELLS, 5.43 / 2**0.5)},
        called={"two crystals": partial(list_inputs, TWO), **EMPTY},
        calls=calls_of_list,
        refusal="",  # linear
    ),
    OpCase(
        edge_vectors,
        reference.edge_vectors,
        differentiable=(0, 1),
        csrc="neighbor_list",
        samples={"two crystals": partial(vector_inputs, TWO), "crystals": partial(vector_inputs, MIXED, 4.5)},
        tiny={"two crystals": partial(vector_inputs, TWO)},
        edges={"no edges": partial(vector_inputs, TWO, 0.1)},
        many={"crystals": partial(vector_inputs, MIXED, 4.5)},
        called={"two crystals": partial(vector_inputs, TWO)},
        calls=calls_of_vectors,
        refusal="",  # linear
    ),
]


def test_random_structures_equal_the_reference(device, dtype):
    rng = np.random.default_rng(1)
    for _ in range(60):
        positions, cell, pbc, cutoff = random_structure(rng)
        inputs = tensors(positions, cell, pbc, dtype, device)
        index, shift, vec = reference.neighbor_list(*inputs, cutoff + 1e-3)
        if near_cutoff(vec.norm(dim=1).cpu(), cutoff, 1e-9 if dtype == torch.float64 else 1e-4):
            continue
        near = vec.norm(dim=1) < cutoff
        ours = neighbor_list(*inputs, cutoff)
        assert torch.equal(ours.edge_index, index[:, near])
        assert torch.equal(ours.cell_shift, shift[near])
        torch.testing.assert_close(
            ours.edge_vec, vec[near], rtol=1e-5, atol=2e-5 if dtype == torch.float32 else 1e-12
        )
        again = edge_vectors(inputs[0], inputs[1], ours.edge_index, ours.cell_shift)
        assert torch.equal(again, ours.edge_vec)


def energy_of(positions, cell, pbc):
    return neighbor_list(positions, cell, pbc, 3.0).edge_vec.sin().sum()


def test_compile_and_export_with_a_number_of_edges_that_depends_on_the_data(device):
    inputs = [crystal(1, device=device), crystal(2, device=device)]
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(energy_of, backend="aot_eager", fullgraph=True, dynamic=True)
        for positions, cell, pbc in inputs:
            positions.requires_grad_()
            grads = [
                torch.autograd.grad(f(positions, cell, pbc), positions)[0] for f in (compiled, energy_of)
            ]
            assert torch.equal(*grads)

    class Energy(torch.nn.Module):
        def forward(self, positions, cell, pbc):
            return energy_of(positions, cell, pbc)

    atoms = torch.export.Dim("atoms", min=2)
    exported = torch.export.export(Energy(), inputs[1], dynamic_shapes=({0: atoms}, None, None)).module()
    for one in inputs:
        assert torch.equal(exported(*one), energy_of(*one))


class Forces(torch.nn.Module):
    """A pair potential, as a model uses the ops."""

    def forward(
        self, positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor, cutoff: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions = positions.detach().requires_grad_()
        index, shift, vec = torch.ops.uqforce.neighbor_list(positions, cell, pbc, cutoff, None)
        vec = vec + torch.ops.uqforce.edge_vectors(positions, cell, index, shift, None)
        energy = (-vec.square().sum(1)).exp().sum()
        grad = torch.autograd.grad([energy], [positions])[0]
        assert grad is not None
        return energy.detach(), grad


def test_forces_in_a_fresh_process(device, tmp_path, fresh_process):
    inputs = crystal(device=device)
    expected = Forces()(*inputs, 3.0)
    torch.jit.script(Forces()).save(tmp_path / "model.pt")
    torch.save(inputs, tmp_path / "inputs.pt")
    fresh_process(
        """
        torch.save(torch.jit.load("model.pt")(*torch.load("inputs.pt"), 3.0), "out.pt")
        """
    )
    for ours, theirs in zip(torch.load(tmp_path / "out.pt"), expected):
        assert torch.equal(ours, theirs)


def test_edges_of_the_domain(device, dtype):
    options = {"dtype": dtype, "device": device}
    box, periodic = torch.eye(3, **options)[None] * 10, torch.ones(1, 3, dtype=torch.bool, device=device)
    # no neighbours: just beyond the cutoff, which is not included
    pair = torch.tensor([[0.0, 0, 0], [3.0, 0, 0]], **options)
    assert neighbor_list(pair, box, periodic, 3.0).edge_vec.shape[0] == 0
    assert neighbor_list(pair, box, periodic, 3.0001).edge_index.tolist() == [[0, 1], [1, 0]]
    # coinciding atoms are neighbours of one another, not of themselves
    assert neighbor_list(torch.zeros(2, 3, **options), box, periodic, 3.0).edge_index.tolist() == [
        [0, 1],
        [1, 0],
    ]
    # a cell smaller than the cutoff: one atom sees only its own images, sorted by shift
    for cutoff in (2.5, 5.2):
        found = neighbor_list(torch.full((1, 3), 7.3, **options), box / 10, periodic, cutoff)
        images = [s for s in itertools.product(range(-5, 6), repeat=3) if 0 < np.dot(s, s) < cutoff**2]
        assert found.cell_shift.tolist() == [list(s) for s in images]
    # empty structures between others
    batch = torch.tensor([1, 1, 3], device=device)
    three = torch.cat([pair, pair[:1]])
    found = neighbor_list(three, box.repeat(5, 1, 1), periodic.repeat(5, 1), 3.5, batch)
    assert found.edge_index.tolist() == [[0, 1], [1, 0]]


def test_more_than_65535_atoms(device):
    rng = np.random.default_rng(0)
    n, length, cutoff = 70_000, 112.0, 3.0
    positions = rng.uniform(-length, 2 * length, (n, 3))
    cell = np.diag([length] * 3) + np.tril(rng.normal(size=(3, 3)) * 20, -1)
    found = neighbor_list(*tensors(positions, cell, [True, True, False], device=device), cutoff)
    vesin = VesinList(cutoff=cutoff, full_list=True)
    i, j, shifts, distances = vesin.compute(positions, cell, np.array([True, True, False]), "ijSd")
    assert not near_cutoff(distances, cutoff)
    order = np.lexsort((*shifts.T[::-1], j, i))
    assert np.array_equal(found.edge_index.cpu(), np.stack([i, j])[:, order].astype(int))
    assert np.array_equal(found.cell_shift.cpu(), shifts[order].astype(int))


# ---- other programs' lists


def compare_with_ase_and_vesin(seed, count, device="cpu"):
    rng = np.random.default_rng(seed)
    compared = 0
    for _ in range(count):
        positions, cell, pbc, cutoff = random_structure(rng)
        inputs = tensors(positions, cell, pbc, device=device)
        if near_cutoff(neighbor_list(*inputs, cutoff + 2e-9).edge_vec.norm(dim=1).cpu(), cutoff, 1e-9):
            continue
        ours = neighbor_list(*inputs, cutoff)
        mine = set(map(tuple, torch.cat([ours.edge_index.t(), ours.cell_shift], 1).tolist()))
        assert len(mine) == ours.edge_index.shape[1]
        i, j, shift = ase_neighbor_list(
            "ijS", ase.Atoms(f"H{len(positions)}", positions, cell=cell, pbc=pbc), cutoff
        )
        assert mine == set(map(tuple, np.column_stack([i, j, shift]).tolist()))
        i, j, shift = VesinList(cutoff=cutoff, full_list=True).compute(positions, cell, pbc, "ijS")
        assert mine == set(map(tuple, np.column_stack([i, j, shift]).astype(int).tolist()))
        compared += 1
    return compared


def test_equals_ase_and_vesin(device, cuda_kernels):
    count = 100 if cuda_kernels else 400
    assert compare_with_ase_and_vesin(seed=0, count=count, device=device) >= count - 4


@pytest.mark.slow
def test_equals_ase_and_vesin_on_many_systems(device):
    assert compare_with_ase_and_vesin(seed=1, count=2000, device=device) >= 1990


def test_batch_equals_the_structures_one_by_one(device, dtype):
    rng = np.random.default_rng(5)
    structures, cutoff = [], 3.3
    for size in rng.integers(1, 80, 40):
        structures.append(tensors(*random_structure(rng, size)[:3], dtype, device))
    positions, cell, pbc, batch = batch_of(structures)
    found = neighbor_list(positions, cell, pbc, cutoff, batch)
    parts, first = [], 0
    for one in structures:
        alone = neighbor_list(*one, cutoff)
        parts.append((alone.edge_index + first, alone.cell_shift, alone.edge_vec))
        first += len(one[0])
    index, shift, vec = zip(*parts)
    assert torch.equal(found.edge_index, torch.cat(index, 1))
    assert torch.equal(found.cell_shift, torch.cat(shift))
    assert torch.equal(found.edge_vec, torch.cat(vec))


def test_molecules_of_any_size_equal_the_reference(device, dtype):
    """Up to more atoms than are compared all with all, on a lattice with many pairs exactly at the cutoff."""
    rng = np.random.default_rng(7)
    sites = np.stack(np.meshgrid(*[np.arange(8)] * 3), -1).reshape(-1, 3)
    structures = [
        tensors(0.5 * rng.permutation(sites)[:size] - 300, np.eye(3), [False] * 3, dtype, device)
        for size in (0, 1, 2, 7, 8, 9, 0, 63, 64, 65, 128, 255, 256, 257)
    ]
    inputs = batch_of(structures)
    found = neighbor_list(*inputs[:3], 1.5, inputs[3])
    assert found.edge_vec.norm(dim=1).max() < 1.5
    for ours, expected in zip(found, reference.neighbor_list(*inputs[:3], 1.5, inputs[3])):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4, 1e7, 1e10])
def test_sparse_and_clustered_systems_equal_the_reference(scale, device, dtype):
    """Bounding boxes that are almost empty, along one direction or all, where no dense grid can be stored."""
    rng = np.random.default_rng(2)
    centres = rng.uniform(-scale, scale, (30, 3))
    for pbc in ([False] * 3, [True, False, False]):
        centres[:, pbc] /= scale
        positions = (centres[:, None] + rng.normal(size=(30, 8, 3))).reshape(-1, 3)
        inputs = tensors(positions, np.eye(3) * 7.0, pbc, dtype, device)
        found = neighbor_list(*inputs, 2.0)
        expected = reference.neighbor_list(*inputs, 2.0)
        if near_cutoff(expected[2].norm(dim=1).cpu(), 2.0, 1e-9):
            pytest.fail("choose another seed: a pair lies at the cutoff")
        assert torch.equal(found.edge_index, expected[0])
        assert torch.equal(found.cell_shift, expected[1])


def test_every_edge_has_its_reverse_at_the_cutoff(device, dtype):
    """A perfect crystal whose shells lie at the cutoff: rounding decides, but for both directions alike."""
    positions, cell, pbc = crystal(4, noise=0.0, dtype=dtype, device=device)
    for shift, periodic in itertools.product((0.0, 0.3, 1e3), (pbc, ~pbc)):
        found = neighbor_list(positions + shift, cell, periodic, 5.43 / 2**0.5)
        edges = torch.cat([found.edge_index, found.cell_shift.t()]).t().tolist()
        reverse = torch.cat([found.edge_index.flip(0), -found.cell_shift.t()]).t().tolist()
        assert sorted(edges) == sorted(reverse) and edges == sorted(edges)
        assert (found.edge_vec.double().norm(dim=1) < 5.43 / 2**0.5).all()


def test_atoms_that_have_flown_away_change_nothing_for_the_others(device):
    positions, cell, pbc = crystal(4, device=device)
    pbc = torch.zeros_like(pbc)
    away = positions.new_tensor([[3e9, 0.5, 0], [3e9, 1.5, 0], [0, 0.2, -7e11], [2e4, 0, 3e5]])
    expected = neighbor_list(positions, cell, pbc, 5.0)
    found = neighbor_list(torch.cat([positions, away]), cell, pbc, 5.0)
    ours = (found.edge_index < len(positions)).all(0)
    for a, b in zip((found.edge_index[:, ours], found.cell_shift[ours], found.edge_vec[ours]), expected):
        assert torch.equal(a, b)
    assert (found.edge_index[:, ~ours] - len(positions)).tolist() == [[0, 1], [1, 0]]


@given(
    seed=st.integers(0, 2**32 - 1),
    num_atoms=st.integers(1, 9),
    num_edges=st.integers(0, 40),
    num_structures=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_edge_vectors_of_any_edges_and_their_gradients(seed, num_atoms, num_edges, num_structures):
    """Any order, repeated edges, an atom with itself: what autograd makes of the definition, twice."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    positions, cell = normal(num_atoms, 3).requires_grad_(), normal(num_structures, 3, 3).requires_grad_()
    index = torch.randint(num_atoms, (2, num_edges), generator=generator)
    shift = torch.randint(-3, 4, (num_edges, 3), generator=generator)
    batch = torch.randint(num_structures, (num_atoms,), generator=generator).sort().values
    weight = normal(num_edges, 3).requires_grad_()

    def derivatives(function):
        vec = function(positions, cell, index, shift, batch)
        first = torch.autograd.grad((vec.sin() * weight).sum(), [positions, cell], create_graph=True)
        energy = sum((grad**2).sum() for grad in first)
        return vec, *first, *torch.autograd.grad(energy, [positions, cell, weight])

    for ours, expected in zip(derivatives(edge_vectors), derivatives(reference.edge_vectors)):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


# ---- bad input


def test_bad_input_is_refused(device):
    good = dict(zip(("positions", "cell", "pbc"), crystal(device=device)), cutoff=3.0, batch=None)
    n = len(good["positions"])

    def refused(error, match, **changed):
        with pytest.raises(error, match=match):
            arguments = {**good, **changed}
            if isinstance(arguments["batch"], torch.Tensor):
                arguments["batch"] = arguments["batch"].to(device)
            neighbor_list(**arguments)

    for value in (float("nan"), float("inf")):
        positions = good["positions"].clone()
        positions[5, 1] = value
        refused(
            ValueError,
            rf"positions\[5\] is \(.*{value}.*must be finite; correct or remove",
            positions=positions,
        )
        refused(ValueError, r"positions\[5\] is", positions=positions, pbc=~good["pbc"])
    cell = good["cell"].clone()
    cell[0, 1, 1] = float("nan")
    refused(ValueError, r"cell\[0\] has the value nan in row 1", cell=cell)
    refused(ValueError, r"cell\[0\] has the value nan in row 1", cell=cell, pbc=~good["pbc"])
    refused(ValueError, r"cell\[0\] .*no volume.*set pbc to False", cell=torch.zeros_like(cell))
    refused(ValueError, "no volume", cell=good["cell"][:, [0, 1, 1]])
    for cutoff in (0.0, -1.0, float("nan"), float("inf")):
        refused(ValueError, "cutoff is .*expected a finite length above 0", cutoff=cutoff)
    refused(ValueError, r"positions has shape \[16, 2\]", positions=good["positions"][:, :2])
    refused(ValueError, r"cell has shape \[3, 3\]", cell=good["cell"][0])
    refused(ValueError, r"pbc has shape \[2, 3\], expected \[1, 3\]", pbc=good["pbc"].expand(2, 3))
    refused(ValueError, r"batch has shape \[3\], expected \[16\]", batch=torch.zeros(3, dtype=torch.int64))
    refused(ValueError, "batch is None", cell=good["cell"].expand(2, 3, 3), pbc=good["pbc"].expand(2, 3))
    refused(TypeError, "positions is Long", positions=good["positions"].long())
    refused(TypeError, "cell is Float but positions is Double", cell=good["cell"].float())
    refused(TypeError, "pbc is Long, expected Bool", pbc=good["pbc"].long())
    refused(TypeError, "batch is Int, expected Long", batch=torch.zeros(n, dtype=torch.int32))
    two = {"cell": good["cell"].expand(2, 3, 3), "pbc": good["pbc"].expand(2, 3)}
    refused(
        ValueError, r"batch\[8\] is 0 after 1: batch must ascend", batch=(torch.arange(n) < 8).long(), **two
    )
    refused(
        ValueError,
        r"batch\[0\] is 2 but cell holds 2 structures: use 0 to 1",
        batch=torch.full((n,), 2),
        **two,
    )
    refused(ValueError, r"batch\[0\] is -1 but", batch=torch.full((n,), -1), **two)
    refused(ValueError, "periodic images.*smaller cutoff or a larger cell", cutoff=1e7)
    refused(ValueError, "cells away from the cell: wrap", positions=good["positions"] + 1e12)
    refused(ValueError, "cell is on meta but positions is on .*: move", cell=good["cell"].to("meta"))


def test_indices_out_of_range(device, cuda_kernels):
    """An error; on CUDA, where to look at values would stall the stream, NaN."""
    positions, cell, pbc = crystal(device=device)
    index, shift, _ = neighbor_list(positions, cell, pbc, 3.0)
    batch = torch.zeros(len(positions), dtype=torch.int64, device=device)
    beyond = index.clone()
    beyond[1, 3] = 16
    cases = [
        (beyond, batch, r"edge_index\[1, 3\] is 16 but there are 16 atoms"),
        (index - 1, batch, r"edge_index\[0, 0\] is -1"),
        (index, batch + 1, r"batch\[0\] is 1 but there are 1 structures"),
    ]
    for edges, of_atom, message in cases:
        inputs = (positions.requires_grad_(), cell.requires_grad_(), edges, shift, of_atom)
        if not cuda_kernels:
            with pytest.raises(IndexError, match=message):
                edge_vectors(*inputs)
            continue
        vec = edge_vectors(*inputs)
        bad = ((edges < 0) | (edges > 15)).any(0) | (of_atom[0] == 1)
        assert torch.equal(vec.isnan(), bad[:, None].expand(-1, 3))
        assert all(g.isnan().all() for g in torch.autograd.grad(vec.sum(), inputs[:2]))


def test_bad_edges_are_refused():
    positions, cell, pbc = crystal()
    index, shift, _ = neighbor_list(positions, cell, pbc, 3.0)
    with pytest.raises(ValueError, match="cell_shift has shape"):
        edge_vectors(positions, cell, index, shift[:-1])
    with pytest.raises(ValueError, match="edge_index has shape"):
        edge_vectors(positions, cell, index.t(), shift)
    with pytest.raises(TypeError, match="edge_index is Int, expected Long"):
        edge_vectors(positions, cell, index.int(), shift)
    with pytest.raises(ValueError, match="grad has shape"):
        torch.ops.uqforce.edge_vectors_backward(torch.zeros(3, 3), index, shift, None, 16, 1)

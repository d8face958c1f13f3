"""force_variance: forces, virials and their covariance blocks from derivatives along the edges."""

import math
from functools import partial

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.ops.op_case import OpCase
from uqforce.ops import ForceVariance, force_variance
from uqforce.reference.force_variance import force_variance as reference

DOUBLE = torch.float64
MODES = pytest.mark.parametrize("mode", ["total", "local"])


def as_matrix(block: Tensor) -> Tensor:
    """[N,6] xx yy zz yz xz xy -> [N,3,3]."""
    return block[:, [0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(-1, 3, 3)


def random_case(atoms, edges, members, structures, mode, device="cpu", dtype=DOUBLE, seed=0) -> dict:
    """Random edges (unsorted, self edges and repeated pairs among them) with random derivatives."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=DOUBLE).to(device, dtype)

    batch = torch.arange(atoms) * structures // max(atoms, 1)
    edge_index = torch.randint(atoms, (2, edges), generator=generator) if edges else torch.zeros(2, 0).long()
    edge_index[1] = torch.where(batch[edge_index[0]] == batch[edge_index[1]], edge_index[1], edge_index[0])
    return {
        "edge_index": edge_index.to(device),
        "edge_vec": normal(edges, 3),
        "grad_energy": normal(members, edges, 3),
        "grad_sigma": normal(members, edges, 3),
        "variance": normal(members, structures if mode == "total" else atoms).square(),
        "gamma": normal(members, atoms).square(),
        "batch": batch.to(device),
        "num_structures": structures,
        "mode": mode,
    }


def assert_equals_reference(case: dict, tolerance: float, **options) -> ForceVariance:
    exact = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in case.items()}
    forces, aleatoric, epistemic, virial, virial_variance, *of_members = reference(**exact, **options)
    result = force_variance(**case, **options)
    trace = {"dim1": 1, "dim2": 2}
    pairs = [
        (result.forces, forces),
        (as_matrix(result.aleatoric), aleatoric),
        (as_matrix(result.epistemic), epistemic),
        (as_matrix(result.total), aleatoric + epistemic),
        (result.aleatoric_uncertainty, (aleatoric.diagonal(**trace).sum(1) / 3).sqrt()),
        (result.epistemic_uncertainty, (epistemic.diagonal(**trace).sum(1) / 3).sqrt()),
        (result.total_uncertainty, ((aleatoric + epistemic).diagonal(**trace).sum(1) / 3).sqrt()),
        (result.virial, virial),
        (result.virial_epistemic, virial_variance),
        *zip((result.member_forces, result.member_virials, result.noise_virials), of_members, strict=True),
    ]
    for value, expected in pairs:
        assert value.dtype == case["grad_energy"].dtype
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance * scale)
    return result


def inputs(atoms, edges, members, structures, mode, ddof=0, seed=0):
    return *random_case(atoms, edges, members, structures, mode, seed=seed).values(), ddof


def definition(*arguments) -> tuple[Tensor, ...]:
    """The definition's results in the form of the op's: blocks as xx yy zz yz xz xy, and uncertainties."""
    forces, aleatoric, epistemic, virial, virial_epistemic, *of_members = reference(*arguments)
    blocks = (aleatoric, epistemic, aleatoric + epistemic)
    variances = [block.diagonal(dim1=1, dim2=2).sum(1) / 3 for block in blocks]
    uncertainties = [torch.where(v > 0, torch.where(v > 0, v, 1.0).sqrt(), 0.0) for v in variances]
    blocks = [block[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] for block in blocks]
    return forces, *blocks, *uncertainties, virial, virial_epistemic, *of_members


def calls(edge_index, edge_vec, grad_energy, grad_sigma, variance, gamma, batch, num_structures, mode, ddof):
    """Every schema of the op, with arguments of its own."""
    rest = (batch, num_structures, mode == "local", ddof, len(grad_energy))
    inputs = (edge_vec, grad_energy, grad_sigma)
    results = torch.ops.uqforce.force_variance(edge_index, *inputs, *rest)
    cotangents, directions = [torch.randn_like(t) for t in results], [torch.randn_like(t) for t in inputs]
    yield "force_variance_double_backward", (edge_index, *inputs, *rest, *cotangents, *directions)
    inputs = [t.clone().requires_grad_() for t in inputs]
    yield "force_variance.members", (edge_index, *inputs, *rest)
    yield "force_variance_backward", (edge_index, *inputs, *rest, *cotangents)


def for_each_mode(samples: dict[str, tuple]) -> dict:
    """inputs() of atoms, edges, members, structures, ddof, in both modes."""
    return {
        f"{name} {mode}": partial(inputs, *sizes[:4], mode, *sizes[4:])
        for name, sizes in samples.items()
        for mode in ("total", "local")
    }


OP_CASES = [
    OpCase(
        force_variance,
        definition,
        differentiable=(1, 2, 3, 4, 5),
        samples=for_each_mode({"one member": (7, 60, 1, 2), "five members": (300, 4000, 5, 3, 1)}),
        tiny=for_each_mode({"one member": (4, 10, 1, 2, 0, 3), "three members": (4, 10, 3, 2, 1, 3)}),
        edges=for_each_mode({"no structures": (0, 0, 2, 0), "no atoms": (0, 0, 1, 3), "alone": (1, 0, 1, 1)}),
        many=for_each_mode({"many": (2000, 20_000, 3, 5)}),
        called=for_each_mode({"two members": (5, 12, 2, 2)}),
        calls=calls,
        tolerance={torch.float32: 1e-5, torch.float64: 1e-12},
        refusal="third derivatives",
    )
]


@MODES
def test_gamma_shapes(mode, device):
    case = random_case(6, 40, 3, 2, mode, device)
    member, atom = case["gamma"][:, :1], case["gamma"][:1]
    for given, full in (
        (0.7, torch.tensor(0.7, dtype=DOUBLE, device=device)),
        (member[:, 0], member),
        (atom[0], atom),
        (member, member),
        (atom, atom),
    ):
        result = force_variance(**{**case, "gamma": given})
        torch.testing.assert_close(as_matrix(result.aleatoric), reference(**{**case, "gamma": full})[1])


@MODES
def test_rows_that_are_no_members(mode, device):
    """They have forces and virials, and derivatives, and no part in mean and covariance."""
    case = random_case(5, 20, 3, 2, mode, device)
    names = ("edge_index", "edge_vec", "grad_energy", "grad_sigma", "batch", "num_structures")
    edge_index, edge_vec, rows, sigma, batch, structures = (case[name] for name in names)
    op, tail = torch.ops.uqforce.force_variance, (batch, structures, mode == "local", 0)
    all_rows = op(edge_index, edge_vec, rows, sigma, *tail, 2)
    members = op(edge_index, edge_vec, rows[:2], sigma, *tail, 2)
    other = op(edge_index, edge_vec, rows[2:], sigma, *tail, 1)
    for value, of_members in zip(all_rows[:5], members[:5], strict=True):
        assert torch.equal(value, of_members)
    for value, of_members, of_other in zip(all_rows[5:7], members[5:7], other[5:7], strict=True):
        assert torch.equal(value, torch.cat([of_members, of_other]))
    inputs = [tensor.requires_grad_() for tensor in (edge_vec, rows, sigma)]
    assert torch.autograd.gradcheck(lambda r, g, s: op(edge_index, r, g, s, *tail, 2), inputs)
    assert torch.autograd.gradgradcheck(lambda r, g, s: op(edge_index, r, g, s, *tail, 2), inputs)
    with pytest.raises(ValueError, match="members is 4, but grad_energy has 3 rows"):
        op(edge_index, edge_vec, rows, sigma, *tail, 4)


@MODES
def test_what_older_files_call(mode, device, dtype):
    """Files exported by 0.1.0 call the op without `members`, and take five results."""
    case = random_case(5, 20, 3, 2, mode, device, dtype)
    names = ("edge_index", "edge_vec", "grad_energy", "grad_sigma", "batch", "num_structures")
    inputs = [case[name] for name in names] + [mode == "local", 1]
    old, new = torch.ops.uqforce.force_variance(*inputs), torch.ops.uqforce.force_variance(*inputs, 3)
    assert len(old) == 5 and all(torch.equal(a, b) for a, b in zip(old, new[:5], strict=True))


def test_members_without_noise(device, dtype):
    """Without grad_sigma and variance only the epistemic part is left."""
    case = random_case(6, 40, 3, 2, "total", device, dtype)
    full = force_variance(**case)
    bare = force_variance(**{**case, "grad_sigma": None, "variance": None})
    assert torch.equal(bare.epistemic, full.epistemic)
    assert torch.equal(bare.total, full.epistemic)
    assert not bare.aleatoric.any()


@MODES
def test_uncertainty_of_zero_has_a_finite_gradient(mode, device):
    """One member: its epistemic uncertainty is exactly 0, and so is its derivative."""
    case = random_case(4, 10, 1, 1, mode, device)
    gradient = case["grad_energy"].requires_grad_()
    result = force_variance(**case)
    assert not result.epistemic_uncertainty.any()
    (result.epistemic_uncertainty.sum() + result.total_uncertainty.sum()).backward()
    assert gradient.grad.isfinite().all()


class Uncertain(torch.nn.Module):
    """What an exported model does: two derivatives and this function."""

    def forward(
        self, edge_index: Tensor, edge_vec: Tensor, batch: Tensor, num_structures: int
    ) -> ForceVariance:
        edge_vec = edge_vec.detach().requires_grad_()
        square = edge_vec.square().sum(1)
        energy, sigma = square.sin().sum(), square.neg().exp().sum()
        grad_energy = torch.autograd.grad([energy], [edge_vec], retain_graph=True)[0]
        grad_sigma = torch.autograd.grad([sigma], [edge_vec])[0]
        assert grad_energy is not None
        assert grad_sigma is not None
        variance = torch.ones(1, num_structures, dtype=edge_vec.dtype, device=edge_vec.device)
        return force_variance(
            edge_index, edge_vec, grad_energy[None], grad_sigma[None], variance, 1.3, batch, num_structures
        )


def test_model_in_a_fresh_process(device, tmp_path, fresh_process):
    case = random_case(6, 40, 1, 2, "total", device)
    inputs = (case["edge_index"], case["edge_vec"], case["batch"], 2)
    torch.jit.script(Uncertain()).save(tmp_path / "model.pt")
    torch.save(inputs, tmp_path / "in.pt")
    fresh_process('torch.save(tuple(torch.jit.load("model.pt")(*torch.load("in.pt"))), "out.pt")')
    for loaded, value in zip(torch.load(tmp_path / "out.pt"), Uncertain()(*inputs)):
        assert torch.equal(loaded, value)


@MODES
def test_more_than_65535_atoms(mode, device, dtype):
    case = random_case(70_000, 150_000, 2, 4, mode, device, dtype)
    centre, neighbour = case["edge_index"]
    result = force_variance(**case)
    forces = case["grad_energy"].new_zeros(70_000, 3).double()
    mean = case["grad_energy"].double().mean(0)
    forces.index_add_(0, centre, mean).index_add_(0, neighbour, -mean)
    torch.testing.assert_close(result.forces.double(), forces, rtol=1e-5, atol=1e-5)


@MODES
def test_order_of_edges_does_not_matter(mode, device):
    case = random_case(50, 600, 2, 2, mode, device)
    order = torch.argsort(case["edge_index"][0], stable=True)
    ordered = {
        **case,
        "edge_index": case["edge_index"][:, order],
        "edge_vec": case["edge_vec"][order],
        "grad_energy": case["grad_energy"][:, order],
        "grad_sigma": case["grad_sigma"][:, order],
    }
    for a, b in zip(force_variance(**case), force_variance(**ordered)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def sorted_edges(case: dict, by_neighbour: bool) -> dict:
    """The same edges in the order of their centres, or of their centres and neighbours."""
    centre, neighbour = case["edge_index"]
    order = torch.argsort(centre * len(case["batch"]) + neighbour * by_neighbour, stable=True)
    rows = {name: case[name][:, order] for name in ("edge_index", "grad_energy", "grad_sigma")}
    return {**case, **rows, "edge_vec": case["edge_vec"][order]}


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    atoms=st.integers(1, 400),
    edges=st.integers(0, 900),
    members=st.integers(1, 4),
    structures=st.integers(1, 3),
    mode=st.sampled_from(["total", "local"]),
    order=st.sampled_from(["none", "centre", "pair"]),
)
@hypothesis.example(0, 1, 4, 2, 1, "local", "none")  # one atom: all its edges are to itself
def test_any_edges_equal_the_reference(seed, atoms, edges, members, structures, mode, order):
    case = random_case(atoms, edges, members, structures, mode, seed=seed)
    case["gamma"] = case["gamma"][:, :1]  # [members, 1]: never ambiguous
    case = case if order == "none" else sorted_edges(case, order == "pair")
    assert_equals_reference(case, 1e-11)


@MODES
def test_derivatives_are_bitwise_the_same_for_any_number_of_threads(mode, device, dtype):
    case = sorted_edges(random_case(1500, 12_000, 3, 4, mode, device, dtype), by_neighbour=True)
    # Neighbours near and far, so that some blocks of atoms meet other threads' and some do not.
    centre, neighbour = case["edge_index"]
    case["edge_index"] = torch.stack([centre, torch.where(neighbour % 5 > 0, centre, neighbour)])
    inputs = [case[name] for name in ("edge_index", "edge_vec", "grad_energy", "grad_sigma", "batch")]
    inputs += [case["num_structures"], mode == "local", 1, 3]
    generator = torch.Generator().manual_seed(1)

    def like(tensors) -> list[Tensor]:
        return [torch.randn(t.shape, generator=generator, dtype=DOUBLE).to(device, dtype) for t in tensors]

    ops = torch.ops.uqforce
    cotangents, directions = like(ops.force_variance(*inputs)), like(inputs[1:4])
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2, 3, 5):
        torch.set_num_threads(number)
        first = ops.force_variance_backward(*inputs, *cotangents)
        second = ops.force_variance_double_backward(*inputs, *cotangents, *directions)
        results.append([*first, *second])
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


# A small system with an energy and per-atom standard deviations, in a cell or not.


def periodic_edges(positions: Tensor, cell: Tensor | None, cutoff: float) -> tuple[Tensor, Tensor]:
    """edge_index sorted by centre and shift vectors [E,3], by brute force over 5^3 images."""
    images = torch.arange(-2, 3).double() if cell is not None else torch.zeros(1, dtype=DOUBLE)
    shifts = torch.cartesian_prod(images, images, images)
    shifts = shifts @ (cell if cell is not None else torch.eye(3, dtype=DOUBLE))
    vectors = positions[None, :, None] + shifts - positions[:, None, None]  # [i,j,image,3]
    distance = vectors.norm(dim=-1)
    centre, neighbour, image = torch.nonzero((distance < cutoff) & (distance > 1e-8), as_tuple=True)
    return torch.stack([centre, neighbour]), shifts[image]


class Model:
    """Energy and edge-local sigma_j > 0, both with many-body terms."""

    def __init__(self, positions: Tensor, cell: Tensor | None = None, cutoff: float = 3.0):
        self.positions, self.cutoff = positions, cutoff
        self.edge_index, self.shift = periodic_edges(positions, cell, cutoff)

    def edge_vec(self, positions: Tensor) -> Tensor:
        return positions[self.edge_index[1]] - positions[self.edge_index[0]] + self.shift

    def sums(self, edge_vec: Tensor) -> tuple[Tensor, Tensor]:
        """Scalar and vector of every atom, sums over its own edges."""
        length = edge_vec.norm(dim=1)
        weight = (math.pi * length / self.cutoff).cos() + 1
        zeros = edge_vec.new_zeros(len(self.positions), 3)
        scalar = zeros[:, 0].index_add(0, self.edge_index[0], weight)
        return scalar, zeros.index_add(0, self.edge_index[0], weight[:, None] * edge_vec / length[:, None])

    def energy(self, edge_vec: Tensor) -> Tensor:
        scalar, vector = self.sums(edge_vec)
        return (scalar.sin() + vector.square().sum(1)).sum()

    def sigmas(self, edge_vec: Tensor) -> Tensor:
        scalar, vector = self.sums(edge_vec)
        return 0.1 + 0.05 * scalar + 0.03 * vector.square().sum(1)

    def call(self, mode: str, gamma: float | Tensor) -> ForceVariance:
        """One member with this model's energy and noise."""
        edge_vec = self.edge_vec(self.positions).requires_grad_()
        sigmas = self.sigmas(edge_vec)
        sigma = sigmas.square().sum().sqrt() if mode == "total" else sigmas.sum()
        (grad_energy,) = torch.autograd.grad(self.energy(edge_vec), edge_vec, retain_graph=True)
        (grad_sigma,) = torch.autograd.grad(sigma, edge_vec)
        variance = sigmas.detach().square()
        variance = variance.sum()[None, None] if mode == "total" else variance[None]
        batch = torch.zeros(len(self.positions), dtype=torch.int64)
        return force_variance(
            self.edge_index,
            edge_vec.detach(),
            grad_energy[None],
            grad_sigma[None],
            variance,
            gamma,
            batch,
            1,
            mode,
        )


def small_positions(atoms: int = 5, seed: int = 4) -> Tensor:
    return 2 * torch.rand(atoms, 3, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


CELL = torch.tensor([[2.0, 0.0, 0.0], [0.5, 2.2, 0.0], [0.2, -0.3, 1.9]], dtype=DOUBLE)


@pytest.mark.parametrize("cell", [None, CELL], ids=["cluster", "cell below cutoff"])
def test_forces_and_virial_are_derivatives(cell):
    """F = -dE/dr and W = -dE/d strain."""
    model = Model(small_positions(), cell)
    positions = model.positions.clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=DOUBLE, requires_grad=True)
    energy = model.energy(model.edge_vec(positions) @ (torch.eye(3, dtype=DOUBLE) + strain))
    grad_positions, grad_strain = torch.autograd.grad(energy, [positions, strain])
    result = model.call("total", 1.0)
    torch.testing.assert_close(result.forces, -grad_positions, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(result.virial[0], -grad_strain, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("cell", [None, CELL], ids=["cluster", "cell below cutoff"])
def test_local_block_equals_full_jacobian(cell):
    """One backward pass gives sum_j (d sigma_j/d r_i)(d sigma_j/d r_i)^T + gamma^2 s_i of all N Jacobians."""
    model = Model(small_positions(), cell)
    if cell is not None:
        pairs = model.edge_index[0] * 5 + model.edge_index[1]
        assert (pairs.bincount() > 1).any()  # several images of a pair
        assert (model.edge_index[0] == model.edge_index[1]).any()  # and atoms that see themselves
    jacobian = torch.autograd.functional.jacobian(
        lambda positions: model.sigmas(model.edge_vec(positions)), model.positions
    )  # [j,i,3]
    sigmas = model.sigmas(model.edge_vec(model.positions))
    gamma = torch.linspace(0.5, 2, 5, dtype=DOUBLE)
    expected = torch.einsum("jia,jib->iab", jacobian, jacobian)
    expected = expected + (gamma * sigmas).square()[:, None, None] * torch.eye(3, dtype=DOUBLE)
    value = as_matrix(model.call("local", gamma).aleatoric)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)


@MODES
def test_equals_the_covariance_of_a_simulated_process(mode):
    """E = mu + sum sigma_j eps_j with random Fourier features for eps; the sampled Cov[F_i] is the block."""
    gamma, samples = 1.7, 400_000
    model = Model(small_positions())
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.autograd.functional.jacobian(
        lambda positions: model.sigmas(model.edge_vec(positions)), model.positions
    )
    sigmas = model.sigmas(model.edge_vec(model.positions))
    if mode == "total":  # one process of all 3N coordinates, sigma = sqrt(sum of sigma_j^2)
        sigma = sigmas.square().sum().sqrt()
        gradient = torch.einsum("j,jia->ia", sigmas / sigma, jacobian)[None]  # [process, i, 3]
        frequency = gamma * torch.randn(samples, 1, 5, 3, generator=generator, dtype=DOUBLE)
        sigmas = sigma[None]
    else:  # atom j's own process of its own position
        gradient = jacobian
        own = gamma * torch.randn(samples, 5, 3, generator=generator, dtype=DOUBLE)
        frequency = torch.diag_embed(own.mT).permute(0, 2, 3, 1)  # [sample, process j, atom i = j, 3]
    phase = 2 * math.pi * torch.rand(samples, len(sigmas), generator=generator, dtype=DOUBLE)
    noise = math.sqrt(2) * phase.cos()  # cos(w.r + b) with b uniform: unit variance, correlation E cos(w.t)
    slope = -math.sqrt(2) * phase.sin()
    force = -torch.einsum("sp,pia->sia", noise, gradient)
    force -= torch.einsum("sp,spia->sia", slope * sigmas, frequency)
    sampled = torch.einsum("sia,sib->iab", force, force) / samples
    block = as_matrix(model.call(mode, gamma).aleatoric)
    assert (sampled - block).abs().max() < 0.015 * block.abs().max()


@MODES
def test_rotation_covariance(mode):
    """Blocks turn as matrices, uncertainties stay, for a proper and an improper rotation."""
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE))
    for turn in (rotation, -rotation):
        first = Model(small_positions()).call(mode, 1.2)
        second = Model(small_positions() @ turn.T).call(mode, 1.2)
        torch.testing.assert_close(second.forces, first.forces @ turn.T)
        torch.testing.assert_close(as_matrix(second.aleatoric), turn @ as_matrix(first.aleatoric) @ turn.T)
        torch.testing.assert_close(second.aleatoric_uncertainty, first.aleatoric_uncertainty)
        torch.testing.assert_close(second.virial[0], turn @ first.virial[0] @ turn.T)


def test_local_is_size_consistent_and_total_is_not():
    """A second cluster far away, or a repeated cell, repeats the local values."""
    positions = small_positions()
    far = torch.tensor([1000.0, 0.0, 0.0], dtype=DOUBLE)
    one, two = Model(positions), Model(torch.cat([positions, positions + far]))
    local = one.call("local", 1.2).aleatoric
    torch.testing.assert_close(two.call("local", 1.2).aleatoric, local.repeat(2, 1), rtol=1e-10, atol=0)
    ratio = two.call("total", 1.2).aleatoric_uncertainty[:5] / one.call("total", 1.2).aleatoric_uncertainty
    assert (ratio > 1.1).all()

    wide = 3.5 * CELL  # twice the cutoff in every direction: no pair meets through two images
    crystal = torch.rand(40, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) @ wide
    repeated = torch.cat([crystal, crystal + wide[0]])
    supercell = wide * torch.tensor([[2.0], [1.0], [1.0]], dtype=DOUBLE)
    local = Model(crystal, wide).call("local", 1.2).aleatoric
    torch.testing.assert_close(Model(repeated, supercell).call("local", 1.2).aleatoric, local.repeat(2, 1))


@MODES
def test_flat_variance_leaves_the_isotropic_part(mode, device):
    """grad s = 0: the block is gamma^2 s I."""
    case = random_case(6, 40, 1, 2, mode, device)
    case["grad_sigma"].zero_()
    result = force_variance(**case)
    per_atom = case["variance"][:, case["batch"]] if mode == "total" else case["variance"]
    expected = (case["gamma"].square() * per_atom)[0]
    torch.testing.assert_close(
        as_matrix(result.aleatoric), expected[:, None, None] * torch.eye(3, dtype=DOUBLE)
    )
    torch.testing.assert_close(result.aleatoric_uncertainty, expected.sqrt())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: {"mode": "white"}, ValueError, "mode is white"),
        (lambda c: {"ddof": 2}, ValueError, "ddof is 2"),
        (lambda c: {"variance": None}, ValueError, "belong together"),
        (lambda c: {"variance": c["variance"][:, :1]}, ValueError, "variance has shape"),
        (lambda c: {"variance": c["variance"].float()}, TypeError, "variance is torch.float32"),
        (lambda c: {"gamma": c["gamma"].float()}, TypeError, "gamma is torch.float32"),
        (lambda c: {"gamma": c["gamma"][:, :2]}, ValueError, "gamma has shape"),
        (lambda c: {"edge_vec": c["edge_vec"][1:]}, ValueError, "edge_vec has shape"),
        (lambda c: {"edge_vec": c["edge_vec"].float()}, TypeError, "edge_vec is Float"),
        (lambda c: {"grad_sigma": c["grad_sigma"][:, 1:]}, ValueError, "grad_sigma has shape"),
        (lambda c: {"grad_energy": c["grad_energy"][0]}, ValueError, "grad_energy has shape"),
        (lambda c: {"edge_index": c["edge_index"].int()}, TypeError, "edge_index is Int"),
        (lambda c: {"batch": c["batch"].to("meta")}, ValueError, "batch is on meta"),
    ],
)
def test_errors(change, error, message, device):
    case = random_case(6, 40, 3, 2, "total", device)
    with pytest.raises(error, match=message):
        force_variance(**{**case, **change(case)})


@MODES
@pytest.mark.parametrize(
    ("name", "offset", "message"),
    [
        ("edge_index", 4, "edge_index holds atom"),
        ("edge_index", -4, "edge_index holds atom -"),
        ("batch", 1, "batch holds structure 2"),
    ],
)
def test_indices_out_of_range(mode, name, offset, message, device, cuda_kernels):
    """An error; on CUDA, where to look at values would stall the stream, all results are NaN."""
    case = random_case(6, 40, 3, 2, mode, device)
    case[name] = case[name] + offset
    names = ("edge_index", "edge_vec", "grad_energy", "grad_sigma", "batch", "num_structures")
    inputs = [*[case[n] for n in names], mode == "local", 0, 3]
    ops = torch.ops.uqforce
    if not cuda_kernels:
        with pytest.raises(ValueError, match=message):
            ops.force_variance(*inputs)
        return
    results = ops.force_variance(*inputs)
    cotangents, directions = [torch.ones_like(t) for t in results], inputs[1:4]
    first = ops.force_variance_backward(*inputs, *cotangents)
    second = ops.force_variance_double_backward(*inputs, *cotangents, *directions)
    whole = force_variance(**case)
    assert all(t.isnan().all() for t in (*results, *first, *second, whole.forces, whole.total))


def test_more_errors(device):
    case = random_case(3, 10, 3, 1, "local", device)
    with pytest.raises(ValueError, match="as many members as atoms"):
        force_variance(**{**case, "gamma": case["gamma"][0]})
    with pytest.raises(ValueError, match="1 members, but ddof = 1 needs at least 2"):
        force_variance(**random_case(3, 10, 1, 1, "local", device), ddof=1)

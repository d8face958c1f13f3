import pytest

from uqforce.data import batches


@pytest.mark.parametrize("n", [1, 7, 12, 13])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_structure_once_and_the_same_steps_on_any_number_of_processes(n, world_size):
    alone = batches(range(n), 4, seed=3, epoch=1)
    shares = [batches(range(n), 4, seed=3, epoch=1, rank=r, world_size=world_size) for r in range(world_size)]
    assert {len(share) for share in shares} == {len(alone)} == {-(-n // 4)}
    for step, indices in enumerate(alone):
        together = [i for share in shares for i in share[step]]
        assert sorted(together) == sorted(indices)
        assert max(len(share[step]) for share in shares) - min(len(share[step]) for share in shares) <= 1
    assert sorted(i for indices in alone for i in indices) == list(range(n))


def test_order_is_a_function_of_seed_and_epoch():
    pinned = [[2, 4, 1], [5, 6, 3], [0, 7]]  # a changed order would break resumed runs
    assert batches(range(8), 3, seed=1, epoch=2) == pinned
    assert batches(range(8), 3, seed=1, epoch=3) != batches(range(8), 3, seed=1, epoch=2)
    assert batches(range(8), 3, seed=2, epoch=2) != batches(range(8), 3, seed=1, epoch=2)
    assert batches(range(8), 3, seed=1, epoch=2, shuffle=False) == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"world_size": 0}, {"rank": 2, "world_size": 2}, {"seed": -1}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError):
        batches(range(8), **{"batch_size": 2, "seed": 0, "epoch": 0, **wrong})

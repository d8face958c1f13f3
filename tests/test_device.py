"""The choice of a device: what the cards of this machine run of what was built, without a card."""

import pytest
import torch

from uqforce import build_info, device
from uqforce.device import choose_device
from uqforce.errors import InputError

RELEASE = ["sm_80", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        (80, RELEASE, "sm_80"),
        (86, RELEASE, "sm_80"),
        (89, ["sm_80", "sm_86", "compute_86"], "sm_86"),
        (90, RELEASE, "sm_90"),
        (103, RELEASE, "sm_100"),
        (121, RELEASE, "sm_120"),
        (75, RELEASE, ""),
        (110, RELEASE, ""),
        (130, RELEASE, "compute_120"),
        (100, ["sm_80", "sm_90", "compute_90"], "compute_90"),
        (80, ["sm_86", "compute_86"], ""),
        (90, [], ""),
    ],
)
def test_what_a_card_runs(capability, archs, runs):
    assert torch.ops.uqforce.cuda_arch_for(capability, archs) == runs


@pytest.fixture
def machine(monkeypatch):
    """`machine(build, (9, 0), (8, 6))`: this machine with these cards, and what uqforce was built for."""

    def make(build: dict, *capabilities: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda k=None: capabilities[k or 0])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda k=None: f"card {card_number(k)}")
        monkeypatch.setattr(device, "build_info", lambda: build_info() | {"without_cuda": None} | build)
        device._announce.cache_clear()

    yield make
    device._announce.cache_clear()


def card_number(which: torch.device | int | None) -> int:
    return (which.index if isinstance(which, torch.device) else which) or 0


def test_says_once_what_runs(caplog):
    device._announce.cache_clear()
    with caplog.at_level("INFO", "uqforce"):
        for _ in range(2):
            assert choose_device("cpu") == torch.device("cpu")
    (said,) = caplog.messages
    assert f"CPU kernels ({build_info()['instruction_set']})" in said


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ({"cuda_archs": None}, "uqforce was built without CUDA kernels"),
        (
            {"cuda_archs": RELEASE, "without_cuda": ["gmm_nll"]},
            "uqforce has no CUDA kernel yet for gmm_nll",
        ),
        (
            {"cuda_archs": ["sm_90", "compute_90"]},
            "uqforce was built for sm_90 compute_90, which card 0 of compute capability 8.6 does not run "
            r'\(rebuild it with UQFORCE_CUDA_ARCHS="86"\)',
        ),
    ],
)
def test_a_build_that_the_card_does_not_run(build, message, machine):
    machine(build, (8, 6))
    with pytest.warns(UserWarning, match=f"{message}.*: running on the CPU"):
        assert choose_device("auto").type == "cpu"
    with pytest.raises(InputError, match=f"'cuda' was asked for, but {message}"):
        choose_device("cuda")
    with pytest.raises(InputError, match=f"'cuda:0' was asked for, but {message}"):
        choose_device("cuda:0")


def test_cards_of_two_kinds(machine, caplog):
    """Each is compared for itself; "auto" takes torch's current one."""
    caplog.set_level("INFO", "uqforce")
    machine({"cuda_archs": ["sm_90", "compute_90"]}, (9, 0), (8, 6), (12, 0))
    assert choose_device("auto") == torch.device("cuda")
    assert "CUDA kernels for sm_90 on card 0" in caplog.text
    with pytest.raises(InputError, match=r"card 1 of compute capability 8.6 does not run"):
        choose_device("cuda:1")
    assert choose_device("cuda:2") == torch.device("cuda:2")
    assert "compute_90, which the driver compiles now: minutes, once on card 2" in caplog.text
    first, second, third = device.describe_cards()
    assert first == "card 0: runs the kernels for sm_90"
    assert second.startswith("card 1: uqforce was built for sm_90 compute_90, which card 1")
    assert third == "card 2: runs the kernels for compute_90"
    with pytest.raises(InputError, match=r"'cuda:3' was asked for, but torch .* sees 3 CUDA devices"):
        choose_device("cuda:3")


@pytest.mark.parametrize("wanted", ["gpu", "mps", "cuda:x", ""])
def test_unknown_devices(wanted):
    words = f"device must be 'auto', 'cpu', 'cuda' or 'cuda:K', got {wanted!r}"
    with pytest.raises(InputError, match=words):
        choose_device(wanted)


def test_no_card(machine):
    machine({"cuda_archs": RELEASE})
    assert choose_device("auto") == torch.device("cpu") and device.describe_cards() == []
    with pytest.raises(InputError, match=r"'cuda' was asked for, but torch .* sees 0 CUDA devices"):
        choose_device("cuda")

"""Model files: round trip, and what is said of files that are not good."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.model.systems import assert_same, evaluate, make_potential, random_system
from uqforce.errors import ModelFileError
from uqforce.model import NOISE, load_model, save_model
from uqforce.model.file import FORMAT_VERSION


def test_round_trip(potential, tmp_path):
    d = potential.network.num_last_features
    potential.set_mixture(
        torch.randn(2, d), torch.eye(d).repeat(2, 1, 1), torch.log(torch.tensor([0.3, 0.7]))
    )
    potential.card = {"author": "test", "quantiles": [1.0, 2.0]}
    save_model(potential, tmp_path / "model.uqf")
    loaded = load_model(tmp_path / "model.uqf")
    assert loaded.config == potential.config and loaded.card == potential.card and not loaded.training
    system = random_system([5, 4], periodic=True)
    assert_same(evaluate(potential, system), evaluate(loaded, system))
    assert evaluate(loaded, system).nll.shape == (9,)


def test_other_precision(tmp_path):
    save_model(make_potential(), tmp_path / "model.uqf")
    single = load_model(tmp_path / "model.uqf", dtype="float32")
    assert single.config.dtype == "float32" and single.network.type_embedding.dtype == torch.float32
    assert single.network.scale_shift.shifts.dtype == torch.float64


def test_truncated_file(tmp_path):
    save_model(make_potential(), tmp_path / "model.uqf")
    content = (tmp_path / "model.uqf").read_bytes()
    for size in (0, 5, 200, len(content) - 1):
        (tmp_path / "cut.uqf").write_bytes(content[:size])
        with pytest.raises(ModelFileError, match="truncated"):
            load_model(tmp_path / "cut.uqf")


def test_newer_format(tmp_path):
    path = tmp_path / "model.uqf"
    save_model(make_potential(), path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["uqforce"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["format_version"] = FORMAT_VERSION + 1
    save_file(tensors, path, metadata={"uqforce": json.dumps(header)})
    with pytest.raises(ModelFileError, match="upgrade uqforce"):
        load_model(path)


def test_not_a_model(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.uqf")
    with pytest.raises(ModelFileError, match="not a uqforce model"):
        load_model(tmp_path / "other.uqf")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "pickle.uqf")
    with pytest.raises(ModelFileError, match="not a uqforce model"):
        load_model(tmp_path / "pickle.uqf")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_model(tmp_path / "missing.uqf")


def test_mixture_of_wrong_shape(potential):
    with pytest.raises(ValueError, match="does not fit"):
        potential.set_mixture(torch.zeros(2, 3), torch.zeros(2, 3, 3), torch.zeros(2))


def test_a_file_of_a_variance_head_is_read(tmp_path):
    """Formats 1 and 2 had one form of noise, its scalar gamma and no members."""
    potential = make_potential(noise="total", gamma=1.7)
    config = {k: v for k, v in potential.config.model_dump().items() if k not in NOISE} | {
        "variance_head": True
    }
    tensors = {
        name.replace("noise.head.", "variance_head.mlp.").replace("noise.gamma.", "variance_head."): value
        for name, value in potential.state_dict().items()
        if name not in ("noise.head.shift", "noise.log_gamma_strain")
    }
    tensors = {n: v[0].contiguous() if n.startswith("variance_head") else v for n, v in tensors.items()}
    assert tensors["variance_head.log_gamma"].shape == ()
    header = {"format_version": 1, "uqforce_version": "1", "config": config, "card": {}}
    save_file(tensors, tmp_path / "old.uqf", metadata={"uqforce": json.dumps(header)})
    system = random_system([5, 4], periodic=True)
    loaded = evaluate(load_model(tmp_path / "old.uqf"), system)
    assert_same(evaluate(potential, system), loaded)

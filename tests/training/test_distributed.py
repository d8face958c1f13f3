"""Two processes take the steps that one process takes with the joint batch."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from uqforce.cli import main


def numbers(directory: Path) -> list[list[float]]:
    with open(directory / "metrics.csv", newline="") as file:
        return [
            [float(value) for name, value in row.items() if not name.startswith("seconds")]
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("loss", ["mse", "likelihood"])
def test_two_processes_equal_one(settings, write_config, tmp_path, loss):
    """Shares of 3 and 2 structures, and of 1 and none in the last step; float64."""
    kind = {"kind": loss}
    settings["data"]["split"] = {"validation": 4, "train": 11}
    settings["model"] |= {"dtype": "float64", "noise": "total" if loss == "likelihood" else "none"}
    settings["loss"] = {"energy": kind, "forces": {**kind, "weight": 10.0}, "stress": {"weight": 1.0}}
    settings |= {"epochs": 2, "clip": 1.0}
    directories = []
    for name in ("one", "two"):
        directories.append(tmp_path / name)
        config = write_config({**settings, "output": str(directories[-1])}, f"{name}.yaml")
        if name == "one":
            assert main(["train", config]) == 0
        else:
            launch = [
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc_per_node=2",
                "-m",
                "uqforce.cli",
            ]
            command = [sys.executable, *launch, "train", config]
            done = subprocess.run(command, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr
            assert "2 process(es)" in done.stdout
            assert done.stdout.count("best model") == 1
    for a, b in zip(*map(numbers, directories), strict=True):
        assert a == pytest.approx(b, rel=1e-10, abs=1e-10)
    one, two = (load_file(directory / "last.uqf") for directory in directories)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-10, atol=1e-10, msg=name)

"""The bench's common part on a case of known length."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def timing(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import timing

    return timing


def sleeper(seconds: float, result: int = 1):
    def function():
        time.sleep(seconds)
        return result

    return lambda: function


def missing():
    import no_such_package  # noqa: F401


def test_run_case(timing):
    case = timing.Case("nap", "wink", 4, {"uqforce": sleeper(0.001), "slow": sleeper(0.004), "none": missing})
    rows = {row["rival"]: row for row in timing.run_case(case, seconds=0.05)}
    assert rows["none"] == {"rival": "none", "error": "not installed: no_such_package"}
    assert rows["uqforce"]["median_ms"] >= 1 and rows["slow"]["median_ms"] >= 4  # sleep never returns early
    assert rows["slow"]["ns_per_wink"] == pytest.approx(1e6 * rows["slow"]["median_ms"] / 4)
    assert rows["slow"]["min_ms"] <= rows["slow"]["median_ms"] <= rows["slow"]["max_ms"]
    assert rows["slow"]["calls"] >= 3


def test_a_rival_with_another_result_is_refused(timing):
    def check(ours, theirs):
        assert ours == theirs

    case = timing.Case("nap", "wink", 1, {"uqforce": sleeper(0, 1), "wrong": sleeper(0, 2)}, check)
    with pytest.raises(AssertionError):
        timing.run_case(case, seconds=0)


def test_run_writes_results_with_machine_facts(tmp_path):
    options = ["--json", "--seconds", "0", "--output", tmp_path, "--only", "float64"]
    command = [sys.executable, BENCH / "run.py", *options, "gmm_nll"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (path,) = tmp_path.glob("*/gmm_nll.json")
    result = json.loads(path.read_text())
    assert json.loads(done.stdout) == result
    assert result["machine"]["threads"] == 1 and result["machine"]["cpu"]
    (case,) = result["cases"]
    assert [row["rival"] for row in case["rows"]][:2] == ["uqforce", "scikit-learn"]


def test_unknown_name():
    done = subprocess.run([sys.executable, BENCH / "run.py", "nope"], capture_output=True, text=True)
    assert done.returncode == 2 and "no benchmark nope: choose from" in done.stderr

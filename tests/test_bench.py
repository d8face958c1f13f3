"""The bench's common part on a case of known length."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
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


def test_a_rival_in_another_process(timing, tmp_path, monkeypatch):
    from remote import remote

    (tmp_path / "far.py").write_text(
        "import os\n"
        "def near(n): return lambda: [n, os.environ['WHERE']]\n"
        "def lacking(): import no_such_package\n"
        "def large(n): return lambda: len(bytearray(n << 20))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rivals = {
        "uqforce": lambda: lambda: [3, "here"],
        "far": remote("far:near", 3, environment={"WHERE": "here"}),
        "none": remote("far:lacking"),
        "large": remote("far:large", 200),
    }
    case = timing.Case("nap", "wink", 1, rivals)
    rows = {row["rival"]: row for row in timing.run_case(case, seconds=0)}
    assert rows["none"]["error"] == "not installed: no_such_package"
    assert rows["far"]["median_ms"] > 0 and rows["far"]["peak_mb"] < 50
    assert 200 < rows["large"]["peak_mb"] < 250

    def check(ours, theirs):
        assert ours == theirs

    different = remote("far:near", 3, environment={"WHERE": "there"})
    case = timing.Case("nap", "wink", 1, {**rivals, "far": different}, check)
    with pytest.raises(AssertionError):
        timing.run_case(case, seconds=0)


def test_run_writes_results_with_machine_facts(tmp_path):
    options = ["gmm_nll", "--seconds", "0", "--output", tmp_path, "--only", "float64", "--threads", "1", "2"]
    command = [sys.executable, BENCH / "run.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (path,) = tmp_path.glob("*/gmm_nll.json")
    result = json.loads(path.read_text())
    assert result["machine"]["cpu"] and result["command"].endswith("--threads 1 2")
    assert [case["threads"] for case in result["cases"]] == [1, 2]
    case, _ = result["cases"]
    assert [row["rival"] for row in case["rows"]][:2] == ["uqforce", "scikit-learn"]
    assert f"with 2 threads: {case['case']}" in done.stdout
    # 20000 atoms, 50 triangular products with 32 x 33 operations each
    row, ceilings = case["rows"][0], case["ceilings"]
    assert row["gflop_per_s"] == pytest.approx(20000 * 50 * 32 * 33 / row["median_ms"] / 1e6)
    assert row["share_of_ceiling"] == pytest.approx(1e9 * row["gflop_per_s"] / ceilings["float64"])


@pytest.mark.parametrize("name", ["force_variance", "gmm_nll", "models", "tensor_product_conv", "training"])
def test_cases_have_names_of_their_own_and_ours_comes_first(timing, name):
    cases = list(importlib.import_module(name).cases())
    assert len({case.name for case in cases}) == len(cases) > 0
    assert all(next(iter(case.rivals)).startswith("uqforce") for case in cases)


def test_a_case_that_fails_loses_no_other(tmp_path):
    """An exception, a crash of the process, and an exception where cases are made; a machine without git."""
    for name in ("run", "measure", "records", "timing", "remote"):
        shutil.copy(BENCH / f"{name}.py", tmp_path)
    (tmp_path / "faulty.py").write_text(
        textwrap.dedent(
            """
            import os, signal
            from timing import Case

            def fails():
                raise ValueError("on purpose")

            def crashes():
                os.kill(os.getpid(), signal.SIGSEGV)

            def cases():
                for name, function in {"first": int, "bad": fails, "fatal": crashes, "last": int}.items():
                    yield Case(name, "wink", 1, {"uqforce": lambda function=function: function})
                raise RuntimeError("no more of them")
            """
        )
    )
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(BENCH.parent)}
    command = [sys.executable, tmp_path / "run.py", "faulty", "--seconds", "0", "--output", tmp_path]
    done = subprocess.run([*command, "--threads", "1", "2"], env=environment, capture_output=True, text=True)
    (path,) = tmp_path.glob("*/faulty.json")
    result = json.loads(path.read_text())
    assert result["machine"]["commit"] is None
    wrong = [
        ("first", None),
        ("bad", "ValueError: on purpose"),
        ("fatal", "the process ended in this case"),
        ("last", None),
        ("the cases after those above", "RuntimeError: no more of them"),
    ]
    found = {(entry["case"], entry["threads"]): entry for entry in result["cases"]}
    assert {key: entry.get("error") for key, entry in found.items()} == {
        (case, threads): error for case, error in wrong for threads in (1, 2)
    }
    assert all(found[case, 1]["rows"][0]["calls"] == 3 for case in ("first", "last"))
    assert done.returncode == 1
    for case, error in wrong:
        assert error is None or done.stderr.count(f"  faulty, {case}: {error}\n") == 2, done.stderr


def test_json_takes_one_name(tmp_path):
    command = [sys.executable, BENCH / "run.py", "gmm_nll", "models", "--json", tmp_path / "both.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--json takes one NAME, not 2" in done.stderr


def test_unknown_name():
    done = subprocess.run([sys.executable, BENCH / "run.py", "nope"], capture_output=True, text=True)
    assert done.returncode == 2 and "no benchmark nope: choose from" in done.stderr


@pytest.fixture
def report(timing):
    import report

    return report


def test_the_performance_page_is_what_the_report_makes(report):
    assert report.PAGE.read_text() == report.page(), "run `python bench/report.py`"


def result(other_work: float, threads: int, rows: list[dict], **fields) -> dict:
    case = {"case": "nap", "unit": "wink", "count": 2, "threads": threads, "target": 3.0, "rows": rows}
    build = {"torch": "2.13.0", "instruction_set": "avx2"}
    machine = {
        "cpu": "abacus",
        "cores": 2,
        "commit": "f00",
        "python": "3.11",
        "versions": {},
        "uqforce": build,
    }
    cases = [{**case, "other_work": other_work, **fields}]
    return {"name": "gmm_nll", "command": "run", "machine": machine, "cases": cases}


def row(name: str, milliseconds: float, cpu: float, **fields) -> dict:
    return {"rival": name, "median_ms": milliseconds, "cpu_ms": cpu, **fields}


def test_report_of_a_quiet_and_of_a_busy_machine(report, tmp_path):
    ours = row("uqforce", 2.0, 1.0, share_of_ceiling=0.25, peak_mb=8.0)
    rivals = [row("slow", 9.0, 2.0, peak_mb=6.0), row("fast", 4.0, 3.0), {"rival": "none", "error": "lost"}]
    folder = tmp_path / "abacus"
    folder.mkdir()

    (folder / "gmm_nll.json").write_text(json.dumps(result(0.2, 1, [ours, *rivals])))
    text = report.page(tmp_path)
    assert "| nap | 2 ms, 1 ms/wink | 4 ms, fast | 2 (aim 3.0) | 25% | 8 / 6 |" in text
    assert "- gmm_nll, nap: 2 times faster than fast, short of 3.0." in text
    assert "- gmm_nll, nap: slow adds 6 MB, we 8 MB." in text
    assert "Not measured, because not installed: none." in text

    (folder / "gmm_nll.json").write_text(json.dumps(result(0.2, 1, [ours, *rivals], against="slow")))
    assert "| 2 (4.5, aim 3.0: slow) |" in (text := report.page(tmp_path))
    assert "short of" not in text

    broken = result(0.2, 1, [ours, *rivals])
    broken["cases"].append({"case": "sleep", "threads": 1, "error": "ValueError: late", "rows": []})
    (folder / "gmm_nll.json").write_text(json.dumps(broken))
    assert "- Failed: sleep: ValueError: late" in report.page(tmp_path)

    (folder / "gmm_nll.json").write_text(json.dumps(result(0.6, 1, [ours, *rivals])))
    assert "| nap † | 1 ms, 500 us/wink | 2 ms, slow | 2 (aim 3.0) | 50% | 8 / 6 |" in report.page(tmp_path)

    (folder / "gmm_nll.json").write_text(json.dumps(result(0.0, 1, [ours, row("better", 1.0, 1.0)])))
    assert "- gmm_nll, nap: better is 2.00 times faster." in report.page(tmp_path)

"""bench/device.sh without a GPU: what its parts do when something goes wrong, and rehearsals of both halves.

In a rehearsal the CPU stands for the card. Faults are planted from outside, by a `sitecustomize` that Python
imports before anything else: the scripts know nothing of them.
"""

import json
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEVICE = ROOT / "bench" / "device"


@pytest.fixture
def running(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    monkeypatch.syspath_prepend(str(DEVICE))
    import running

    return running


def outcomes(folder: Path) -> dict[str, tuple[str, str]]:
    """Of every part what became of it, and why."""
    parts = json.loads((folder / "parts.json").read_text())["parts"]
    return {part["part"]: (part["outcome"], part["why"]) for part in parts}


def test_whatever_a_part_does_the_others_run(running, tmp_path, capsys):
    def part(name: str, code: str, seconds: float = 20, **options):
        return running.Part(name, [sys.executable, "-c", textwrap.dedent(code)], seconds, **options)

    stubborn = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("at work", flush=True)
        time.sleep(60)
    """
    stages = [
        [part("fine", "print('result')")],
        [
            part("raises", "print('so far')\nraise ValueError('on purpose')"),
            part("crashes", "import os\nprint('so far', flush=True)\nos.kill(os.getpid(), 11)"),
            part("hangs", stubborn, seconds=3),
            part("unwilling", f"print('no card')\nraise SystemExit({running.LEFT_OUT})"),
            part("toolless", "", tool="no-such-tool"),
            part("quiet", "raise SystemExit(3)"),
        ],
        [
            part(
                "after fine",
                "import os; print(os.environ['WHO'])",
                after=("fine",),
                environment={"WHO": "me"},
            )
        ],
        [part("after unwilling", "", after=("fine", "unwilling"))],
    ]
    archive = tmp_path / "all.tar.gz"
    run = running.Run("trial", tmp_path / "trial", 60, archive)
    assert not run.stages(stages)
    found = outcomes(tmp_path / "trial")
    assert found.pop("hangs")[0] == "out of time"
    assert found == {
        "fine": ("passed", ""),
        "raises": ("failed", "ValueError: on purpose"),
        "crashes": ("crashed", "SIGSEGV; its last line: so far"),
        "unwilling": ("left out", "no card"),
        "toolless": ("left out", "no-such-tool is not installed"),
        "quiet": ("failed", "it printed nothing"),
        "after fine": ("passed", ""),
        "after unwilling": ("left out", "unwilling left out: no card"),
    }
    assert (tmp_path / "trial" / "after fine.log").read_text() == "me\n"
    assert (tmp_path / "trial" / "hangs.log").read_text() == "at work\n"
    assert "2 of 9 parts passed" in (said := capsys.readouterr().out)
    assert all(words in said for words in ("ValueError: on purpose", "SIGSEGV", "its last line: at work"))
    with tarfile.open(archive) as everything:
        assert {"trial/summary.txt", "trial/hangs.log", "trial/raises.log"} <= set(everything.getnames())
        assert "2 of 9 parts" in everything.extractfile("trial/summary.txt").read().decode()


def test_no_part_begins_after_the_end_and_none_outlasts_it(running, tmp_path):
    wait = [sys.executable, "-c", "import time; print('waiting', flush=True); time.sleep(60)"]
    run = running.Run("trial", tmp_path, 3)
    assert not run.stages([[running.Part("long", wait, 60)], [running.Part("late", wait, 60)]])
    found = outcomes(tmp_path)
    assert found["long"][0] == "out of time"
    assert found["late"] == ("left out", "the 3 s are over")


def test_a_part_is_told_when_to_begin_nothing_new(running, tmp_path):
    told = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "--limit", running.LIMIT]
    assert running.Run("trial", tmp_path, 1000).stages([[running.Part("long", told, 100)]])
    assert (tmp_path / "long.log").read_text() == "['--limit', '85']\n"


def test_the_folder_is_whole_after_every_part(running, tmp_path):
    """The second part sees the results of the first one."""
    look = f"import json; print(json.load(open({str(tmp_path / 'parts.json')!r}))['parts'][0]['outcome'])"
    stages = [
        [running.Part("first", [sys.executable, "-c", "print(1)"], 20)],
        [running.Part("second", [sys.executable, "-c", look], 20)],
    ]
    assert running.Run("trial", tmp_path, 60).stages(stages)
    assert (tmp_path / "second.log").read_text() == "passed\n"


PLANT = '''
"""Runs FAULTS: (words of a command line, a module, code that is run behind the module's own)."""
import importlib.abc, importlib.util, json, os, sys

class Plant(importlib.abc.MetaPathFinder):
    def __init__(self, module, code):
        self.module, self.code = module, code

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        original = spec.loader.exec_module
        def exec_module(module):
            original(module)
            exec(self.code, module.__dict__)
        spec.loader.exec_module = exec_module
        return spec

for words, module, code in json.loads(os.environ.get("FAULTS", "[]")):
    if all(word in " ".join(sys.orig_argv) for word in words):
        exec(code) if module is None else sys.meta_path.insert(0, Plant(module, code))
'''
RAISE = 'raise RuntimeError("planted")'
CRASH = "import os; os.kill(os.getpid(), 11)"
HANG = 'print("planted", flush=True); import time; time.sleep(600)'
SANITIZER = """#!/bin/sh
# As compute-sanitizer: options in pairs, then a command. FAULT_OF_<tool> is run in its place.
[ "$1" = --help ] && echo "  --kernel-name ARG" && exit
[ "$1" = --version ] && exit
eval "fault=\\$FAULT_OF_$2"
[ -n "$fault" ] && eval "$fault"
while [ "${1#--}" != "$1" ]; do shift 2; done
exec "$@"
"""
NCU = """#!/bin/sh
# As ncu: makes a report of the command, or a page of a report.
case "$*" in *--import*) echo page; exit;; esac
[ -n "$FAULT_OF_ncu" ] && eval "$FAULT_OF_ncu"
while [ "${1#--}" != "$1" ]; do
  case "$1" in --export) touch "$2"; shift 2;; --force-overwrite) shift;; *) shift 2;; esac
done
exec "$@"
"""


def in_case(name: str, fault: str) -> str:
    """A fault in the benchmark's case of that name, for the module `timing`."""
    return f"""
_run_case = run_case
def run_case(case, *rest):
    if {name!r} in case.name:
        {fault}
    return _run_case(case, *rest)
"""


@pytest.fixture
def rehearse(tmp_path):
    """`rehearse("check", faults, ...)` runs bench/device.sh: the process, its folder, outcomes of parts."""
    tools, site = tmp_path / "tools", tmp_path / "site"
    tools.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(PLANT)
    for name, text in (("compute-sanitizer", SANITIZER), ("ncu", NCU)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def run(
        what: str, faults: list = (), *options: str, tools: Path = tools, rehearse: bool = True, **variables
    ):
        folder = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(tools), os.environ["PATH"]]),
            "PYTHON": sys.executable,
            "PYTHONPATH": str(site),
            "FAULTS": json.dumps(list(faults)),
            **variables,
        }
        options = [*(["--rehearse"] if rehearse else []), *options, "--output", str(folder)]
        command = [ROOT / "bench" / "device.sh", what, "--seconds", "2000", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done, folder, outcomes(folder)

    return run


def results(folder: Path, name: str) -> dict[str, str | None]:
    """The cases of a benchmark, each with its error."""
    (path,) = folder.glob(f"*/device_{name}.json")
    return {entry["case"]: entry.get("error") for entry in json.loads(path.read_text())["cases"]}


def test_without_a_card_one_line(rehearse):
    done, _, found = rehearse("check", [], "--only", "smoke", rehearse=False)
    reason = f"torch {__import__('torch').__version__} sees no CUDA device"
    assert found["card"] == ("left out", reason)
    assert found["smoke"] == ("left out", f"card left out: {reason}")
    assert done.returncode == 1 and "left out     card " in done.stdout and reason in done.stdout


def test_smoke_of_the_emulated_kernels(request, tmp_path):
    """With --emulate: every CUDA kernel, compiled for the host, in the place of the card's."""
    emulation = getattr(request.config, "emulation", None)
    if emulation is None:
        pytest.skip("runs with --emulate")
    variables = {"UQFORCE_REHEARSAL": "1", "UQFORCE_EMULATION": str(emulation), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bench")])}
    done = subprocess.run(
        [sys.executable, DEVICE / "smoke.py"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.endswith("all right\n"), done.stdout + done.stderr
    errors = [line.split()[-1] for line in done.stdout.splitlines() if ", float" in line]
    assert len(errors) == 34 and any(float(error) > 0 for error in errors)


CHECK = (
    "machine",
    "packages",
    "library",
    "card",
    "smoke",
    "tests",
    "memcheck",
    "initcheck",
    "racecheck",
    "synccheck",
)
BENCHES = ("models", "inference", "convolutions", "others", "training")
TIME = (
    *("machine", "packages", "library", "card", *BENCHES, "profile", "counters"),
    *("rivals_convolutions", "rivals_others", "rivals_training", "largest"),
)


@pytest.mark.slow
def test_check_is_rehearsed(rehearse):
    done, folder, found = rehearse("check")
    assert found == dict.fromkeys(CHECK, ("passed", "")), done.stdout
    assert done.returncode == 0 and "10 of 10 parts passed" in done.stdout
    assert "tabulated_conv_vjp, 4 cotangents, float64" in (folder / "smoke.log").read_text()
    assert "every op ran" in (folder / "racecheck.log").read_text()


@pytest.mark.slow
def test_time_is_rehearsed(rehearse):
    done, folder, found = rehearse("time")
    assert found == dict.fromkeys(TIME, ("passed", "")), done.stdout
    assert done.returncode == 0
    for name in (*BENCHES, "largest"):
        assert set(results(folder, name).values()) == {None}
    assert "tabulated_conv" in (folder / "profile.txt").read_text()
    assert (folder / "counters.csv").read_text() == "page\n"


@pytest.mark.slow
def test_check_with_faults_in_every_second_part(rehearse):
    """A package that is missing, an exception in an op, tools that crash and find something."""
    faults = [
        (["packages.py"], None, "sys.modules['vesin'] = None"),
        (["smoke.py"], "uqforce.ops", f"def gate(*arguments):\n    {RAISE}"),
    ]
    crash = "echo found; kill -SEGV $$"
    done, folder, found = rehearse(
        "check", faults, FAULT_OF_memcheck="echo 1 error; exit 9", FAULT_OF_racecheck=crash
    )
    assert done.returncode == 1
    assert found == {
        **dict.fromkeys(CHECK, ("passed", "")),
        "packages": ("failed", "not installed: none; missing packages: vesin"),
        "smoke": ("failed", "wrong: gate, float32; gate, float64"),
        "memcheck": ("failed", "1 error"),
        "racecheck": ("crashed", "SIGSEGV; its last line: found"),
    }
    for part in ("packages", "smoke", "memcheck", "racecheck"):
        assert f"{part} " in done.stdout and found[part][1] in done.stdout
    assert "RuntimeError: planted" in (folder / "smoke.log").read_text()
    assert "gmm_nll, float64" in (folder / "smoke.log").read_text()


@pytest.mark.slow
def test_check_with_faults_in_the_others(rehearse, tmp_path):
    """A crash before the tests, a hanging machine, a library that does not fit nor build, no tool."""
    empty = tmp_path / "none"
    empty.mkdir()
    faults = [
        (["machine.py"], None, HANG),
        (["import uqforce._C"], None, "sys.exit('planted: it does not fit')"),
        (["setup.py", "build_ext"], None, "sys.exit('planted: no compiler')"),
    ]
    done, folder, found = rehearse("check", faults, "--seconds", "300", tools=empty)
    assert done.returncode == 1
    assert found["machine"][0] == "out of time" and "its last line: planted" in found["machine"][1]
    assert found["packages"] == ("passed", "")
    assert found["library"] == ("failed", "the library does not build: see above")
    assert "planted: no compiler" in (folder / "library.log").read_text()
    for part in CHECK[3:]:
        assert found[part][0] == "left out" and "library" in found[part][1]

    faults = [(["-m pytest"], None, CRASH), (["smoke.py"], None, CRASH)]
    done, folder, found = rehearse("check", faults, tools=empty)
    assert found["tests"][0] == "crashed" and found["smoke"][0] == "crashed"
    assert found["memcheck"] == ("left out", "compute-sanitizer is not installed")
    assert [found[part][0] for part in CHECK[:4]] == ["passed"] * 4


@pytest.mark.slow
def test_a_card_of_another_architecture(rehearse):
    seen = """
cuda.is_available = lambda: True
cuda.get_device_capability = lambda card=None: (7, 5)
cuda.get_device_name = lambda card=None: "old card"
"""
    built = "build_info = lambda: {'cuda_archs': ['sm_90', 'compute_90'], 'without_cuda': None}"
    faults = [(["card.py"], "torch", seen), (["card.py"], "uqforce.device", built)]
    done, _, found = rehearse("time", faults, "--only", "others", rehearse=False)
    assert found["card"][0] == "left out"
    assert (
        "built for sm_90 compute_90, which old card of compute capability 7.5 does not run"
        in found["card"][1]
    )
    assert found["others"][0] == "left out" and done.returncode == 1


@pytest.mark.slow
def test_time_with_faults_in_every_second_part(rehearse):
    """An exception in a case, a crash in one, a crash of the profiler, an exception where cases are made."""
    faults = [
        (["measure.py", "device_models"], "timing", in_case("model S, 64 atoms", RAISE)),
        (["measure.py", "device_convolutions", "rivals"], "timing", in_case("preset M, backward", CRASH)),
        (
            ["measure.py", "device_others", '"ours": true'],
            "uqforce.ops",
            f"def force_variance(*all):\n    {RAISE}",
        ),
        (["kernel_profile.py"], "device_training", CRASH),
        (["measure.py", "device_largest"], "device_models", f"def model(*all):\n    {RAISE}"),
    ]
    done, folder, found = rehearse("time", faults)
    assert done.returncode == 1
    error = "RuntimeError: planted"
    models, rivals = results(folder, "models"), results(folder / "rivals", "convolutions")
    assert (
        models.pop("model S, 64 atoms") == error
        and models.pop("model S, 64 atoms, with the score's gradient") == error
    )
    assert len(models) == 6 and set(models.values()) == {None}
    crashed = [case for case, why in rivals.items() if why == "the process ended in this case"]
    assert crashed == ["convolution preset M, backward, 560 edges"] and len(rivals) == 6
    others = results(folder, "others")
    assert [case for case, why in others.items() if why == error] == [
        case for case in others if "variance" in case
    ]
    assert results(folder, "largest") == {"the cases after those above": error}
    failed = {"models", "others", "profile", "largest", "rivals_convolutions", "counters"}
    assert {part for part, (outcome, _) in found.items() if outcome != "passed"} == failed, done.stdout
    assert found["profile"][0] == "crashed" and error in found["models"][1]
    assert set(results(folder, "inference").values()) == set(results(folder, "training").values()) == {None}


@pytest.mark.slow
def test_time_with_faults_in_the_others(rehearse):
    """Benchmarks that cannot be imported, a crash before the first case, no counters."""
    faults = [
        (["measure.py", "device_inference"], "systems", "raise ImportError('planted: no ase')"),
        (["measure.py", "device_training", '"ours": true'], "device_training", CRASH),
        (["measure.py", "device_convolutions", '"ours": true'], "timing", in_case("W64, forward", HANG)),
        (["measure.py", "device_others", "rivals"], "timing", in_case("mixture", RAISE)),
    ]
    only = ["--seconds", "800", "--only", *BENCHES, "counters", "rivals_others"]
    done, folder, found = rehearse("time", faults, *only, FAULT_OF_ncu="echo no permission; exit 1")
    assert done.returncode == 1
    assert results(folder, "inference") == {"the cases after those above": "ImportError: planted: no ase"}
    assert found["inference"][0] == "failed" and found["training"][0] == "failed"
    assert "exit status -11" in found["training"][1]
    assert found["convolutions"][0] == "out of time"
    assert results(folder, "convolutions") == {
        "convolution W64, forward, 560 edges": "the process ended in this case"
    }
    assert found["counters"] == ("failed", "ncu wrote no report, exit status 1")
    mixtures = [why for case, why in results(folder / "rivals", "others").items() if "mixture" in case]
    assert mixtures == ["RuntimeError: planted"] * 6
    assert found["models"] == found["others"] == ("passed", "")

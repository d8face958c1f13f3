"""The emulation of CUDA finds the faults that it is there for; machine code and plans are as meant."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emulation import paper_model
from tests.emulation.passes import Planner
from tests.emulation.resources import compiled, instructions, nvdisasm, sources

ROOT = Path(__file__).parents[1]
EMULATION, CSRC = ROOT / "tests" / "emulation", ROOT / "csrc"


def test_faults_are_found(tmp_path):
    program = tmp_path / "kernels"
    command = ["c++", "-std=c++20", "-O1", f"-I{EMULATION}", f"-I{CSRC}", "-o", program]
    subprocess.run([*command, EMULATION / "kernels.cpp", EMULATION / "fibres.cpp"], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    values = [float(i % 17) for i in range(3 * 96)]
    sums = " ".join(f"{sum(values[96 * b : 96 * (b + 1)]):g}" for b in range(3))
    assert said["block_sum"] == said["warp_sum"] == f"{sums}, always"
    assert said["block_sum without barriers"] != f"{sums}, always"
    assert said["block_race"].endswith("and others")
    assert "nan" in said["unset_memory"]
    assert "none can go on" in said["deadlock"]
    assert "reads lane 20 in a shuffle whose mask lacks" in said["wrong_mask"]
    assert said["copy_ahead"] == f"{values[15]:g} {values[15]:g} {values[15]:g}, always"
    assert "nan" in said["copy_ahead without wait"]


# Kernels that are known to have what no other may have.
LOCAL_MEMORY = {
    "make_frames": "a thread for each structure, whose cell it indexes at run time",
}
SPILLED = {  # bytes of a thread; to be mended
    "double_backward_kernel<double, 1, Family<3, 34, 41, 42> >": 8,
}
GENERIC_ACCESS = {
    "search<float, true>": "the cells' keys stand in shared memory, or in global where they are too many",
    "search<double, true>": "as float",
}
SOURCES = pytest.mark.parametrize("source", sources(), ids=lambda path: f"{path.parent.name}-{path.stem}")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@SOURCES
def test_machine_code(source, tmp_path):
    """For sm_90: no register is spilled, no array in local memory, no access to an unknown address space."""
    cubin = tmp_path / "kernels.cubin"
    kernels = compiled(source, "90", cubin)
    spilled = {kernel.name: kernel.spilled for kernel in kernels if kernel.spilled > 0}
    assert kernels and all(bytes_ <= SPILLED.get(name, 0) for name, bytes_ in spilled.items()), spilled
    in_local_memory = {kernel.name.partition("<")[0] for kernel in kernels if kernel.local > kernel.spilled}
    assert not in_local_memory - set(LOCAL_MEMORY)
    if nvdisasm() is None:
        pytest.skip("no spills; accesses are not looked at: pip install nvidia-cuda-nvdisasm")
    code = instructions(nvdisasm(), cubin)
    assert len(code) == len({kernel.name for kernel in kernels}) and all(code.values())
    generic = {name: found["LD"] + found["ST"] for name, found in code.items() if found["LD"] + found["ST"]}
    assert not {name for name in generic if name not in GENERIC_ACCESS and not name.startswith("Device")}


CLANG_TIDY = shutil.which("clang-tidy")
WIDENING = "bugprone-implicit-widening-of-multiplication-result"
# Products of ints that become 64-bit numbers and do not grow with the system: places within a block or a
# tile, columns of one atom, features of a mixture.
BOUNDED = {
    "block_linear/cuda.cu": 3,
    "force_variance/cuda.cu": 2,
    "gmm_nll/cuda.cu": 2,
    "gmm_nll/cuda_tensor.cu": 9,
    "neighbor_list/cuda.cu": 3,
    "neighbor_list/cuda_edge_vectors.cu": 1,
    "neighbor_list/cuda_grid.cu": 2,
    "radial_interpolation/cuda.cu": 2,
}


@pytest.mark.slow
@pytest.mark.skipif(CLANG_TIDY is None, reason="clang-tidy is not installed")
@SOURCES
def test_sizes_are_multiplied_in_64_bits(source):
    """A product of 32-bit numbers that becomes a 64-bit size or offset has overflowed before: none is new."""
    options = [f"--checks=-*,{WIDENING}", f"--header-filter={CSRC}/.*"]
    flags = ["-xc++", "-std=c++20", f"-I{EMULATION}", f"-I{CSRC}", "-DUQFORCE_EMULATION"]
    done = subprocess.run([CLANG_TIDY, *options, source, "--", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    found = [line for line in done.stdout.splitlines() if WIDENING in line]
    assert len(found) <= BOUNDED.get(str(source.relative_to(CSRC)), 0), "\n".join(found)


@pytest.fixture(scope="module")
def planner():
    return Planner()


GB = 1 << 30
FREE = 100 * GB


@pytest.mark.parametrize("bytes_of_an_edge", [1, 12, 1944, 3888, 1 << 20])
@pytest.mark.parametrize("edges", [0, 1, 7, 28_000, 2_800_000, 28_000_000, 280_000_000])
def test_few_passes_where_there_is_memory(planner, edges, bytes_of_an_edge):
    """Eight at most, of at most a quarter of the free memory and what half a gigabyte holds."""
    step = planner.edges(edges, bytes_of_an_edge, FREE)
    passes = max(-(-edges // step), 1)
    assert step >= 1 and step * bytes_of_an_edge <= max(FREE // 4, GB // 2, bytes_of_an_edge)
    if edges * bytes_of_an_edge <= 8 * FREE // 4:
        assert passes <= 8
    nodes = max(edges // 28, 1)
    of_a_pass = planner.nodes(edges, bytes_of_an_edge, FREE, nodes)
    assert nodes / passes <= of_a_pass <= min(nodes, 1.125 * nodes * step / max(edges, 1) + 3)


def test_memory_that_is_not_there_is_not_taken(planner):
    step = planner.edges(28_000_000, 1944, 0)
    assert step * 1944 <= GB // 2 and -(-28_000_000 // step) == -(-28_000_000 * 1944 // (GB // 2))
    assert planner.edges(280_000_000, 1, FREE) <= 1 << 26  # an int counts the numbers of a pass


def test_one_pass_where_edges_leave_nothing_behind(planner):
    assert planner.edges(280_000_000, 0, 0) == 280_000_000 and planner.edges(0, 0, 0) == 1
    assert planner.nodes(280_000_000, 0, 0, 10_000_000) == 10_000_000


def test_the_paper_model_is_what_the_docs_say():
    text = (ROOT / "docs" / "cuda.md").read_text()
    rows = paper_model.table()
    assert len(rows) == 6 and not [row for row in rows if row not in text]

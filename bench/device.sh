#!/usr/bin/env bash
# Builds, tests and measures the CUDA kernels on this machine's GPU: bench/device.sh [FOLDER]
#
# Wants torch with CUDA, nvcc, and what `pip install ".[test]"` brings; a package that is missing may lie as a
# wheel in .whl/ (ase, pydantic, vesin: where nothing can be downloaded). Works in the checkout, within 8 minutes
# on 16 cores. Writes to FOLDER (default $OUT or bench/results): build.log, tests.log, sanitizer.log and
# <gpu>/device.json. Exits with an error if a test or a sanitizer failed; benchmarks run all the same, and begin
# no case that the 8 minutes have no room for.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-${OUT:-bench/results}}")
mkdir -p "$out"
python=${PYTHON:-python3}
failed=""

say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }
# "timeout" for as long as is left of $1 seconds since the start, at least a second.
until_second() { echo $(($1 > SECONDS + 1 ? $1 - SECONDS : 1)); }

if compgen -G ".whl/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$PWD/build/site" --upgrade .whl/*.whl || exit
  export PYTHONPATH="$PWD/build/site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" MAX_JOBS=${MAX_JOBS:-$(nproc)} OMP_NUM_THREADS=1
UQFORCE_CUDA_ARCHS=$("$python" -c "import torch; print('%d%d' % torch.cuda.get_device_capability())") || exit
export UQFORCE_CUDA_ARCHS

say "build for sm_$UQFORCE_CUDA_ARCHS"
"$python" setup.py -q build_ext --inplace >"$out/build.log" 2>&1 || { tail -n 40 "$out/build.log"; exit 1; }

say "tests on cuda"
workers=$("$python" -c "import xdist" 2>/dev/null && echo "-n 8")
# shellcheck disable=SC2086
timeout "$(until_second 240)" "$python" -m pytest $workers tests/ops tests/model tests/exporting tests/engines -k cuda \
  >"$out/tests.log" 2>&1 || failed+=" tests"
tail -n 15 "$out/tests.log"

say "compute-sanitizer"
: >"$out/sanitizer.log"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    # Small sizes: what every kernel does at least once.
    timeout 45 compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
      "$python" -m pytest tests/ops -k "cuda and (equals_reference or bitwise)" --maxfail 3 \
      >>"$out/sanitizer.log" 2>&1
    code=$?
    grep -a "ERROR SUMMARY\|RACECHECK SUMMARY" "$out/sanitizer.log" | tail -n 1
    case $code in
      0) ;;
      124) echo "$tool: stopped after 45 s, no report until then" ;;
      *) failed+=" $tool" ;;
    esac
  done
else
  echo "not installed"
fi

say "benchmarks"
limit=$(until_second 430)
timeout "$((limit + 45))" "$python" bench/run.py device --seconds 0.2 --limit "$limit" --output "$out" ||
  failed+=" benchmarks"

say "done"
if [ -n "$failed" ]; then
  echo "failed:$failed" >&2
  exit 1
fi

#!/bin/sh
# The op tests with a library built under sanitizers: tests/sanitize/run.sh address|thread|emulation [pytest's arguments]
#
# address: AddressSanitizer and UndefinedBehaviorSanitizer, one thread; leaks are not looked for, Python leaves its
# own behind. thread: ThreadSanitizer, 2 threads. The kernels are those of UQFORCE_ISA (baseline, avx2, avx512;
# default baseline); Python and torch are not instrumented. Needs cmake, g++ and what the tests need; PYTHON names
# the interpreter. Builds in build/sanitize-*, beside a copy of the package made of links: nothing else is touched.
# emulation: UndefinedBehaviorSanitizer in the CUDA kernels on the host (pytest --emulate), all ops with both
# convolutions; the package as it is built, the emulation in build/emulation-undefined.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python}
case "${1:-}" in
  address)
    sanitizer=address,undefined runtimes="asan ubsan"
    export ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=1:strict_init_order=1"
    export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1" OMP_NUM_THREADS=1
    ;;
  thread)
    sanitizer=thread runtimes=tsan
    export TSAN_OPTIONS="halt_on_error=1:exitcode=66:ignore_noninstrumented_modules=1" OMP_NUM_THREADS=2
    ;;
  emulation)
    shift
    [ $# -gt 0 ] || set -- tests/ops
    cd "$root"
    export UQFORCE_EMULATION_SANITIZER=undefined UBSAN_OPTIONS="print_stacktrace=1" OMP_NUM_THREADS=1
    LD_PRELOAD=$(c++ -print-file-name=libubsan.so) exec "$python" -m pytest -p no:cacheprovider -p no:xdist --emulate "$@"
    ;;
  *)
    sed -n '2p' "$0" >&2
    exit 2
    ;;
esac
export UQFORCE_ISA="${UQFORCE_ISA:-baseline}"
build=$root/build/sanitize-$1-$UQFORCE_ISA
mkdir -p "$root/build"
shift

prefix=$("$python" -c "import torch; print(torch.utils.cmake_prefix_path)")
launcher=$(command -v ccache || true)
cmake -S "$root/tests/sanitize" -B "$build" -DSANITIZER=$sanitizer -DISA="$UQFORCE_ISA" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER_LAUNCHER="$launcher" >"$build.log"
cmake --build "$build" --parallel "${MAX_JOBS:-2}"

rm -rf "$build/tree" && mkdir "$build/tree"
cp -rs "$root/uqforce" "$root/tests" "$root/pyproject.toml" "$build/tree"
ln -sf "$build/uqforce/libuqforce.so" "$build/tree/uqforce/libuqforce.so"

cd "$build/tree"
preload=
for runtime in $runtimes; do
  preload="$preload $(c++ -print-file-name=lib$runtime.so)"
done
[ $# -gt 0 ] || set -- tests/ops
LD_PRELOAD=$preload exec "$python" -m pytest -p no:cacheprovider -p no:xdist "$@"

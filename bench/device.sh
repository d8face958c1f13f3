#!/usr/bin/env bash
# The CUDA kernels on this machine's GPU: are they right, and how fast are they?
#
#   bench/device.sh check [--archive FILE]    # 250 s
#   bench/device.sh time [--archive FILE]     # 400 s
#
# Wants torch with CUDA and what bench/device/packages.py lists; what a machine without network lacks, and a
# library built elsewhere, may lie in .device/ (`make device-library`). Results lie in build/device-check and
# build/device-time, complete whenever a part ends. --help tells the other options, docs/cuda.md the parts.
exec "${PYTHON:-python3}" "$(dirname "$0")/device/parts.py" "$@"

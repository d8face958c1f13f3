#!/usr/bin/env bash
# The road of docs/results.md on 3BPA: train at 300 K, fit the mixture, evaluate at 300, 600 and 1200 K, export.
# Needs the data (docs/results.md says which) in $UQFORCE_DATA/3bpa. Run it from the top of the repository.
set -euo pipefail
export UQFORCE_DATA="${UQFORCE_DATA:-../shared/data}"
data="$UQFORCE_DATA/3bpa"

uqforce train examples/3bpa.yaml
uqforce fit runs/3bpa/best.uqf "$data/train_300K.xyz.xz" -o runs/3bpa/model.uqf
uqforce eval runs/3bpa/model.uqf "$data"/test_{300K,600K,1200K_100}.xyz.xz -o runs/3bpa/eval
uqforce export runs/3bpa/model.uqf -o runs/3bpa/model.pt

"""Runs an exported model in a process that imports torch alone.

`export` starts this text in a new interpreter: MODEL LIBRARY INPUTS OUTPUTS. It must not import uqforce.
"""

import sys

import torch

model, library, inputs, outputs = sys.argv[1:]
torch.ops.load_library(library)
cases = torch.load(inputs, weights_only=True)
results = []
for case in cases:
    # The first call runs the code as it is written, the third what TorchScript made of it by then.
    module = torch.jit.load(model)
    results.append([module(*case) for _ in range(3)])
torch.save(results, outputs)
assert "uqforce" not in sys.modules

"""Runs a metatomic model in a process that imports metatomic alone: MODEL EXTENSIONS INPUTS OUTPUTS."""

import sys

import torch
from metatensor.torch import Labels, TensorBlock
from metatomic.torch import (
    ModelEvaluationOptions,
    System,
    load_atomistic_model,
    register_autograd_neighbors,
)

path, extensions, inputs, outputs = sys.argv[1:]
model = load_atomistic_model(path, extensions_directory=extensions)
results = []
for case in torch.load(inputs, weights_only=True):
    positions = case["positions"].requires_grad_()
    system = System(case["numbers"], positions, case["cell"], torch.tensor([True] * 3))
    names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
    pairs = TensorBlock(
        case["edge_vec"].unsqueeze(2),
        Labels(names, torch.cat([case["edge_index"].t(), case["cell_shift"]], 1).int()),
        [Labels.range("xyz", 3)],
        Labels.range("distance", 1),
    )
    (options,) = model.requested_neighbor_lists()
    register_autograd_neighbors(system, pairs, check_consistency=True)
    system.add_neighbor_list(options, pairs)
    wanted = {name: output for name, output in model.capabilities().outputs.items()}
    wanted = ModelEvaluationOptions(length_unit="angstrom", outputs=wanted)
    out = model([system], wanted, check_consistency=True)
    energy = out["energy"].block().values.sum()
    (gradient,) = torch.autograd.grad(energy, positions)
    values = {name: value.block().values.detach() for name, value in out.items()}
    results.append(values | {"total energy": energy.detach().view(1), "forces": -gradient})
torch.save(results, outputs)
assert "uqforce" not in sys.modules

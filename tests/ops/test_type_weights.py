"""The weights per type: their case of the six tests, their equality with e3nn's full tensor product."""

from functools import partial

import pytest
import torch
from e3nn import o3

from tests.ops.op_case import OpCase
from uqforce.ops import BlockSpec, block_linear, type_weights
from uqforce.ops.irreps import from_e3nn, to_e3nn
from uqforce.reference.type_weights import type_weights as reference

SPECS = {
    "square": BlockSpec("5x0e + 3x1o + 2x2e", "4x0e + 6x1o + 1x2e", 3).flat,
    "gaps": BlockSpec("2x0e + 3x0o + 2x1o + 1x2e", "3x2e + 2x1e + 4x0e", 3).flat,
    "wide": BlockSpec("40x0e + 33x1o", "150x0e + 17x1o", 3).flat,
}


EDGES = BlockSpec("2x0e + 1x1o", "1x0e + 2x1o", 3).flat


def inputs(spec, types, features=3):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    return random(types, features), random(features * spec[2]), spec


def calls(features, weight, spec):
    """Every schema of the weights, with arguments of its own."""
    grad = torch.randn_like(type_weights(features, weight, spec))
    features, weight, grad = (t.clone().requires_grad_() for t in (features, weight, grad))
    yield "type_weights", (features, weight, spec)
    yield "type_weights_features", (grad, weight, features.shape[1], spec)
    yield "type_weights_weight", (features, grad, spec)


OP_CASES = [
    OpCase(
        type_weights,
        reference,
        differentiable=(0, 1),
        samples={
            f"{name} {types} types {features} features": partial(inputs, spec, types, features)
            for name, spec in SPECS.items()
            for types, features in ((1, 3), (4, 3), (7, 32))
        },
        tiny={"gaps": partial(inputs, SPECS["gaps"], 2)},
        edges={
            f"{types} types {features} features": partial(inputs, EDGES, types, features)
            for types, features in ((0, 3), (1, 1), (2, 0), (70_000, 2))
        },
        many={"wide": partial(inputs, SPECS["wide"], 5, 32)},
        called={f"{types} types": partial(inputs, SPECS["square"], types) for types in (0, 3)},
        calls=calls,
        # of sums of 70 000 terms of either sign
        edge_tolerance={torch.float32: 1e-3, torch.float64: 1e-11},
        layout_eps=50,
        isa_eps=50,
        refusal="",  # linear in each
    )
]


def test_equals_e3nn():
    irreps_in, irreps_out = o3.Irreps("5x0e + 3x1o + 2x2e"), o3.Irreps("4x0e + 6x1o + 1x2e")
    product = o3.FullyConnectedTensorProduct(irreps_in, "3x0e", irreps_out).double()
    features, types = torch.randn(4, 3, dtype=torch.float64), torch.tensor([3, 0, 0, 2, 1, 3])
    x = torch.randn(6, irreps_in.dim, dtype=torch.float64)
    weight = type_weights(features, product.weight, SPECS["square"])
    out = block_linear(from_e3nn(x, irreps_in), weight, types, SPECS["square"])
    torch.testing.assert_close(to_e3nn(out, irreps_out), product(x, features[types]), rtol=0, atol=1e-12)


def test_no_blocks():
    spec = BlockSpec("2x0e", "1x1o", 3).flat
    assert type_weights(*inputs(spec, 2)).shape == (2, 0)


def test_bad_arguments():
    spec = SPECS["square"]
    features, weight = (t.float() for t in inputs(spec, 4)[:2])
    with pytest.raises(ValueError, match=r"weight has shape \[119\], expected \[120\]"):
        type_weights(features, weight[1:], spec)
    with pytest.raises(ValueError, match=r"features has shape \[12\], expected \[any"):
        type_weights(features.flatten(), weight, spec)
    with pytest.raises(TypeError, match="weight is Double but features is Float"):
        type_weights(features, weight.double(), spec)

"""nequip's options and ours: read off a nequip model's modules, and written for its builder."""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from ase.data import chemical_symbols
from e3nn.o3 import Irreps
from pydantic import ValidationError
from torch import Tensor, nn

from uqforce.errors import NequipError
from uqforce.model import NOISE, ModelConfig, Potential
from uqforce.model.zbl import COULOMB

PARTS = {
    "type_embed": "NodeTypeEmbed",
    "spharm": "SphericalHarmonicEdgeAttrs",
    "edge_norm": "EdgeLengthNormalizer",
    "bessel_encode": "BesselEdgeLengthEncoding",
    "factor": "ApplyFactor",
    "per_atom_energy_readout": "ScalarMLP",
    "per_type_energy_scale_shift": "PerTypeScaleShift",
    "total_energy_sum": "AtomwiseReduce",
}
"""The parts of nequip's energy model that are not layers; `pair_potential` may come in addition."""

ACTIVATIONS = {"SiLU": "silu", "Mish": "mish", "GELU": "gelu"}


def require(condition: bool, what: str) -> None:
    if not condition:
        raise NequipError(f"this nequip model cannot be carried over to uqforce: {what}")


def kind(module: nn.Module) -> str:
    # Not the class itself: in a model from a package it is another one of the same name.
    return type(module).__name__


def _parts(graph: nn.Module) -> tuple[dict[str, nn.Module], list[nn.Module]]:
    """The named parts of nequip's energy model, and its layers.

    Raises:
        NequipError: a part is missing or unknown.
    """
    inner = getattr(graph, "model", None)
    require(hasattr(graph, "is_graph_model") and isinstance(inner, nn.Module), f"it is a {kind(graph)}, "
             "not one GraphModel (of several models, give one)")  # fmt: skip
    require(kind(inner) == "ForceStressOutput", f"{kind(inner)} instead of ForceStressOutput")
    parts = dict(inner.func.named_children())
    layers: list[nn.Module] = []
    for name, part in parts.items():
        if re.fullmatch(r"layer\d+_convnet", name):
            require(kind(part) == "ConvNetLayer", f"{name} is a {kind(part)}")
            layers.append(part)
        else:
            known = "ZBL" if name == "pair_potential" else PARTS.get(name)
            require(kind(part) == known, f"its part {name}, a {kind(part)}")
    missing = [name for name in PARTS if name not in parts]
    require(not missing and bool(layers), f"it has no {', '.join(missing) or 'layer'}")
    return parts, layers


def read_config(graph: nn.Module) -> ModelConfig:
    """The configuration of a nequip `GraphModel`, from its modules.

    Raises:
        NequipError: it has an option that uqforce does not have; the message names it.
    """
    parts, layers = _parts(graph)
    embedding, edge_norm, bessel = parts["type_embed"], parts["edge_norm"], parts["bessel_encode"]
    require(not embedding.do_categorical_graph_field_embed, "categorical_graph_field_embed")
    r_max = edge_norm.r_max
    require(math.isclose(float(parts["factor"].factor), 2 * math.pi / r_max**2, rel_tol=1e-12),
             "a radial basis of another r_max")  # fmt: skip
    reduce = parts["total_energy_sum"]
    require(reduce.reduce == "sum" and reduce.constant == 1.0, "a total energy that is no sum")
    types, dtype = list(graph.type_names), str(embedding.embed_module.weight.dtype).removeprefix("torch.")
    scale_shift = parts["per_type_energy_scale_shift"]
    fields = {
        "type_names": types,
        "r_max": r_max,
        "dtype": dtype,
        "type_embed_num_features": embedding.embed_module.weight.shape[1],
        "num_bessels": bessel.num_bessels,
        "bessel_trainable": bessel.trainable,
        "polynomial_cutoff_p": bessel.cutoff.p,
        "per_edge_type_cutoff": _cutoffs(edge_norm, types),
        "per_type_energy_scales": _per_type(scale_shift.scales, types),
        "per_type_energy_shifts": _per_type(scale_shift.shifts, types),
        "per_type_energy_scales_trainable": scale_shift.scales_trainable,
        "per_type_energy_shifts_trainable": scale_shift.shifts_trainable,
        "zbl": "pair_potential" in parts,
        **_layer_fields(layers, parts["spharm"], types),
        **_readout_fields(parts["per_atom_energy_readout"].mlp_module),
    }
    if fields["zbl"]:
        _check_zbl(parts["pair_potential"], types)
    try:
        config = ModelConfig(**fields)
    except ValidationError as error:
        reasons = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise NequipError(f"this nequip model cannot be carried over to uqforce: {reasons}") from None
    for layer in layers[:-1]:
        found, wanted = Irreps(str(layer.feature_irreps_hidden)), Irreps(config.hidden_irreps())
        require(found == wanted, f"hidden irreps {found}, not {wanted}")
    return config


def _layer_fields(layers: list[nn.Module], spharm: nn.Module, types: list[str]) -> dict[str, Any]:
    harmonics = Irreps(str(spharm.irreps_edge_sh))
    l_max = harmonics.lmax
    require(harmonics == Irreps.spherical_harmonics(l_max), f"edge attributes {harmonics}")
    for k, layer in enumerate(layers):
        gate, conv = layer.equivariant_nonlin, layer.conv
        require(kind(gate) == "Gate", f"layer {k}: the nonlinearity {kind(gate)} (convnet_nonlinearity_type)")
        require(not layer.resnet, "convnet_resnet")
        require(k > 0 or conv.sc is None, "learnable_shift")
        require(k == 0 or conv.sc is not None, "convnet_sc: false")
        scalars = [(str(ir), act) for (_, ir), act in zip(gate.act_scalars.irreps_in, gate.act_scalars.acts)]
        acts = [*scalars, *(("0e", act) for act in gate.act_gates.acts)]
        names = {(ir, getattr(act, "f", act).__name__) for ir, act in acts}
        require(names <= {("0e", "silu"), ("0o", "tanh")}, f"layer {k}: activations {sorted(names)}")
        require(_radial(conv) == _radial(layers[0].conv), "layers with unequal radial networks")
        require(
            torch.equal(neighbor_norm(conv), neighbor_norm(layers[0].conv)),
            "layers with unequal avg_num_neighbors",
        )
    last = Irreps(str(layers[-1].feature_irreps_hidden))
    require(len(last) == 1 and str(last[0].ir) == "0e", f"last irreps {last}, not even scalars")
    hidden = Irreps(str(layers[0].feature_irreps_hidden))
    channels = {ir.l: mul for mul, ir in hidden}
    if len(layers) > 1:
        require(channels.get(0) == last.dim, f"last irreps {last} after hidden irreps {hidden}")
    depth, width = _radial(layers[0].conv)
    return {
        "num_layers": len(layers),
        "l_max": l_max,
        "parity": any(ir.p != (-1) ** ir.l for _, ir in hidden),
        "num_features": [channels.get(l, last.dim) for l in range(l_max + 1)],
        "radial_mlp_depth": depth,
        **({"radial_mlp_width": width} if depth else {}),
        "avg_num_neighbors": _neighbors(neighbor_norm(layers[0].conv), types),
    }


def neighbor_norm(conv: nn.Module) -> Tensor:
    """1 / sqrt(mean number of neighbours), [1,1] or [T,1], of an InteractionBlock."""
    return conv.avg_num_neighbors_norm.norm_const


def _radial(conv: nn.Module) -> tuple[int, int]:
    """Depth and width of a layer's radial network."""
    hidden = conv.edge_mlp.dims[1:-1]
    require(len(set(hidden)) <= 1, f"a radial network of widths {hidden}")
    return len(hidden), hidden[0] if hidden else 0


def _readout_fields(perceptron: nn.Module) -> dict[str, Any]:
    hidden = perceptron.dims[1:-1]
    require(len(set(hidden)) <= 1, f"a readout of widths {hidden}")
    if not hidden:
        return {}
    activation = "none"
    if kind(perceptron.mlp) != "DeepLinearMLP":
        function = kind(perceptron.mlp[1])
        require(function in ACTIVATIONS, f"readout_mlp_nonlinearity {function}")
        activation = ACTIVATIONS[function]
    return {
        "readout_mlp_hidden_layers_depth": len(hidden),
        "readout_mlp_hidden_layers_width": hidden[0],
        "readout_mlp_nonlinearity": activation,
    }


def _check_zbl(zbl: nn.Module, types: list[str]) -> None:
    species = [chemical_symbols[int(z)] for z in zbl.atomic_numbers]
    require(species == types, f"ZBL between {species} for types {types}")
    require(float(zbl._qqr2exesquare) == 0.5 * COULOMB, "ZBL in units other than metal")
    require(zbl.cutoff.p == 6.0, f"ZBL with polynomial_cutoff_p {zbl.cutoff.p}, not 6")


def _shortest(value: float, same: Callable[[float], bool]) -> float:
    """The decimal number of fewest digits that is the `same` as value."""
    rounded = [float(f"{value:.{digits}g}") for digits in range(1, 18)]
    neighbours = [math.nextafter(value, toward) for toward in (0.0, math.inf)]
    return next(filter(same, rounded + neighbours), value)


def _cutoffs(edge_norm: nn.Module, types: list[str]) -> dict[str, dict[str, float]] | None:
    if not edge_norm._per_edge_type:
        return None
    inverse = edge_norm._rmax_recip.view(len(types), len(types)).tolist()
    table = [[_shortest(1.0 / x, lambda r, x=x: 1.0 / r == x) for x in row] for row in inverse]
    return {centre: dict(zip(types, row)) for centre, row in zip(types, table)}


def _neighbors(norm: Tensor, types: list[str]) -> float | dict[str, float]:
    """Numbers of neighbours from nequip's 1 / sqrt(number), [1,1] or [T,1]."""

    def same(count: float, x: Tensor) -> bool:
        return count > 0 and bool(torch.tensor(1.0 / math.sqrt(count), dtype=norm.dtype) == x)

    counts = [_shortest(x.double().item() ** -2, lambda n, x=x: same(n, x)) for x in norm.flatten().cpu()]
    return counts[0] if len(counts) == 1 else dict(zip(types, counts))


def _per_type(values: Tensor, types: list[str]) -> float | dict[str, float] | None:
    values = values.detach().flatten().tolist()
    if len(set(values)) < 2:
        return values[0] if values else None
    return dict(zip(types, values))


def nequip_options(potential: Potential) -> dict[str, Any]:
    """Arguments of nequip's `NequIPGNNModel` that build our network, with its present scales and shifts."""
    config = potential.config
    fields = config.model_dump(exclude={"zbl", "dtype", "heads", "dropout", *NOISE})
    for name, values in potential.network.scale_shift.named_parameters():
        field, default = f"per_type_energy_{name}", {"scales": 1.0, "shifts": 0.0}[name]
        fields[field] = _per_type(values, config.type_names)
        if getattr(config, field) is None and fields[field] == default:
            fields[field] = None
    if config.readout_mlp_nonlinearity == "none":
        fields["readout_mlp_nonlinearity"] = None
    if config.zbl:
        fields["pair_potential"] = {
            "_target_": "nequip.nn.pair_potential.ZBL",
            "units": "metal",
            "chemical_species": config.type_names,
        }
    return {"seed": 0, "model_dtype": config.dtype, **fields}

"""nequip's models as ours, and ours as nequip's. The one module that imports nequip, when it is asked to."""

import contextlib
import importlib.metadata
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from uqforce.data.units import ENERGY
from uqforce.errors import ExportError, NequipError
from uqforce.exporting.nequip_config import kind, neighbor_norm, nequip_options, read_config, require
from uqforce.files import atomically
from uqforce.model import ModelConfig, Potential, sample_structure
from uqforce.training.checkpoint import rng_state, set_rng_state, sha256

log = logging.getLogger("uqforce.exporting")

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
"""Accepted difference between an imported model and its source, of the largest value, by precision."""

SOLE_MODEL = "sole_model"  # nequip's key of the only model in what it saves

# ---------------------------------------------------------------------------------------------- nequip itself


@contextlib.contextmanager
def nequip(module: str = "nequip") -> Iterator[ModuleType]:
    """nequip's `module` with the global state it needs; default type and random numbers are put back after.

    Raises:
        NequipError: nequip is not installed.
    """
    try:
        set_global_state = importlib.import_module("nequip.utils.global_state").set_global_state
    except ModuleNotFoundError as error:
        raise NequipError(
            f"nequip is needed for this and cannot be imported ({error}): pip install 'uqforce[nequip]', "
            "or pip install 'nequip>=0.19,<0.20' beside the torch that is there"
        ) from error
    dtype, numbers = torch.get_default_dtype(), rng_state()
    set_global_state()
    torch.set_default_dtype(torch.float64)  # of nequip's data, whatever the model's
    try:
        yield importlib.import_module(module)
    finally:
        torch.set_default_dtype(dtype)
        set_rng_state(numbers)


def names_in_nequip(config: ModelConfig) -> dict[str, str]:
    """Names of our network's parameters -> those in nequip's energy model, `GraphModel.model.func`."""

    def perceptron(ours: str, theirs: str, depth: int, linear: bool = False) -> None:
        for k in range(depth):
            names[f"{ours}.inner.{k}.weight"] = (
                f"{theirs}.weights.{k}" if linear else f"{theirs}.{2 * k}.weight"
            )
        last = f"weights.{depth}" if linear and depth else f"{2 * depth}.weight"
        names[f"{ours}.last.weight"] = f"{theirs}.{last}"

    names = {
        "type_embedding": "type_embed.embed_module.weight",
        "edge_embedding.frequencies": "bessel_encode.bessel_weights",
        "scale_shift.scales": "per_type_energy_scale_shift.scales",
        "scale_shift.shifts": "per_type_energy_scale_shift.shifts",
    }
    for k in range(config.num_layers):
        ours, theirs = f"layers.{k}", f"layer{k}_convnet.conv"
        names[f"{ours}.linear_in.weight"] = f"{theirs}.linear_1.weight"
        names[f"{ours}.linear_out.weight"] = f"{theirs}.linear_2.weight"
        perceptron(f"{ours}.radial", f"{theirs}.edge_mlp.mlp", config.radial_mlp_depth)
        if k > 0:
            names[f"{ours}.self_connection.weight"] = f"{theirs}.sc.weight"
    depth, linear = config.readout_mlp_hidden_layers_depth, config.readout_mlp_nonlinearity == "none"
    perceptron("readout", "per_atom_energy_readout.mlp_module.mlp", depth, linear)
    return names


# ---------------------------------------------------------------------------------------------- from nequip


def import_model(
    model: nn.Module | str | os.PathLike,
    *,
    trust: bool = False,
    energy_unit: str = "eV",
) -> Potential:
    """Turn a model of nequip into a `Potential` with its weights, energies, forces and stresses.

    The result is compared with nequip on two structures before it is returned; its card says what it was
    made from.

    Args:
        model: a nequip 0.19 model (`GraphModel`, or the `ModuleDict` of one that nequip's loaders return), or
            a file: checkpoint (`.ckpt`; its averaged weights where it holds them) or package (`.nequip.zip`).
        trust: read the file although both kinds run code that is in them; its sha256 is logged.
        energy_unit: of the model's energies, one of `uqforce.data.units.ENERGY`; they are converted to eV.
            Lengths must be A.

    Raises:
        NequipError: nequip is not installed, the file is not trusted or not nequip's, the model has something
            that uqforce does not, or its results differ by more than `TOLERANCE`.
        FileNotFoundError: no such file.

    Example:
        >>> import uqforce
        >>> potential = uqforce.import_model("trained.ckpt", trust=True)  # doctest: +SKIP
    """
    if energy_unit not in ENERGY:
        raise NequipError(f"unknown energy unit {energy_unit!r}: known are {', '.join(ENERGY)}")
    source: dict[str, Any] = {}
    if not isinstance(model, nn.Module):
        source = {"file": Path(model).name, "sha256": _trusted(Path(model), trust)}
        model = _load(Path(model))
    graph = model[SOLE_MODEL] if isinstance(model, nn.ModuleDict) and SOLE_MODEL in model else model
    potential = Potential(read_config(graph))
    _copy_weights(graph, potential)
    differences = _compare(graph, potential)
    if energy_unit != "eV":
        _convert(potential, energy_unit)
    with nequip() as package:
        version = package.__version__
    potential.card["imported"] = {
        "from": f"nequip {version}",
        **source,
        "energy_unit": energy_unit,
        **differences,
    }
    return potential.eval()


def _trusted(path: Path, trust: bool) -> str:
    """sha256 of a file that the caller trusts."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    digest = sha256(path)
    if not trust:
        raise NequipError(
            f"{path} (sha256 {digest}) is a nequip file, which runs code when it is read. If you know where "
            "it comes from, say so with --trust (trust=True)"
        )
    log.info(f"trusted on your word: {path}, sha256 {digest}")
    return digest


def _load(path: Path) -> nn.Module:
    with nequip("nequip.model.saved_models.load_utils") as saved:
        try:
            return saved.load_saved_model(path, model_key=None)
        except Exception as error:  # whatever nequip, Lightning or the code in the file stumbles over
            raise NequipError(
                f"nequip cannot read {path} as a checkpoint or package ({type(error).__name__}: {error})"
            ) from error


def _copy_weights(graph: nn.Module, potential: Potential) -> None:
    """nequip's weights into ours; refuses a model with parameters that would be left over."""
    theirs = dict(graph.model.func.named_parameters())
    values = {**dict(graph.model.func.named_buffers()), **theirs}
    names, own = names_in_nequip(potential.config), dict(potential.network.named_parameters())
    unknown = [name for name, tensor in theirs.items() if tensor.numel() and name not in names.values()]
    require(not unknown, f"its parameters {', '.join(unknown)}")
    with torch.no_grad():
        for name, parameter in own.items():
            value = values.get(names[name])
            require(value is not None, f"it has no {names[name]}")
            if value.numel() == 0:
                continue  # no scales or no shifts: ours are ones and zeros
            if name.startswith("scale_shift."):
                value = value.flatten().expand(parameter.shape)
            require(value.numel() == parameter.numel(), f"{names[name]} of shape {list(value.shape)}")
            parameter.copy_(value.reshape(parameter.shape))
        norm = neighbor_norm(graph.model.func.layer0_convnet.conv)
        for layer in potential.network.layers:
            layer.neighbor_norm.copy_(norm.expand(layer.neighbor_norm.shape))


def evaluate_nequip(
    graph: nn.Module, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Energies [N], their sum's derivative by edge_vec [E,3] and last features [N,D] of a nequip model."""
    device = next(graph.parameters()).device
    edge_vec = edge_vec.to(device, torch.float64).detach().requires_grad_(True)
    data = {
        "edge_vectors": edge_vec,
        "edge_index": edge_index.to(device),
        "atom_types": atom_types.to(device),
        "batch": batch.to(device),
        "num_atoms": torch.bincount(batch).to(device),
        "pos": torch.zeros(len(atom_types), 3, dtype=torch.float64, device=device),
    }
    with nequip():
        out = graph.model.func(data)
        energies = out["atomic_energy"].flatten()
        (gradient,) = torch.autograd.grad(energies.sum(), edge_vec)
        perceptron = graph.model.func.per_atom_energy_readout.mlp_module.mlp
        features = out["node_features"]
        if kind(perceptron) == "DeepLinearMLP":
            for weight in list(perceptron.weights)[:-1]:
                features = features @ weight / math.sqrt(weight.shape[0])
        else:
            features = perceptron[:-1](features)
    return energies.detach().cpu(), gradient.cpu(), features.detach().cpu()


def relative_difference(ours: Tensor, theirs: Tensor, offset: Tensor | float = 0.0) -> float:
    """Largest difference over the largest value without `offset`, the energies of free atoms.

    With them, any two energies would be equal to many digits; float64's rounding of the values is left out.
    """
    ours, theirs = ours.detach().double(), theirs.detach().double()
    rounding = 4 * torch.finfo(torch.float64).eps * theirs.abs().max()
    difference = ((ours - theirs).abs().max() - rounding).clamp(min=0.0)
    return float(difference / (theirs - offset).abs().max().clamp(min=1e-300))


def _compare(graph: nn.Module, potential: Potential) -> dict[str, float]:
    """Differences on two structures (`relative_difference`). Raises NequipError above `TOLERANCE`."""
    case = sample_structure(potential)
    got, (energies, gradient, features) = potential.eval()(*case), evaluate_nequip(graph, *case[:4])
    shifts = potential.network.scale_shift.shifts.detach()[case[2]]
    differences = {
        "energy_difference": relative_difference(got.energies, energies, shifts),
        "forces_difference": relative_difference(got.edge_gradient, gradient),
        "features_difference": relative_difference(got.features, features),
    }
    tolerance = TOLERANCE[potential.config.dtype]
    for name, difference in differences.items():
        require(
            difference <= tolerance,
            f"its results differ from uqforce's ({name} {difference:.1e}), so it does something unknown here",
        )
    return differences


def _convert(potential: Potential, energy_unit: str) -> None:
    """Energies of `energy_unit` to eV."""
    require(not potential.config.zbl, f"ZBL with energies in {energy_unit}")
    scale_shift, factor = potential.network.scale_shift, ENERGY[energy_unit]
    for name, parameter in scale_shift.named_parameters():
        parameter.data.mul_(factor)
        values = dict(zip(potential.config.type_names, parameter.tolist()))
        setattr(potential.config, f"per_type_energy_{name}", values)


# ------------------------------------------------------------------------------------------------ to nequip


def to_nequip(potential: Potential, compile_mode: str = "eager") -> nn.Module:
    """nequip's `GraphModel` with the network of `potential`; its heads and its mixture have no place there.

    Args:
        compile_mode: nequip's, "eager" or "compile".

    Raises:
        NequipError: nequip is not installed, or the model is an ensemble, for which it has no place.
    """
    if not isinstance(potential, Potential) or potential.config.heads > 1:
        raise NequipError(
            "nequip's checkpoint holds one energy: an ensemble, or a model of several heads, has no place: "
            "export a member alone (member_00/best.uqf)"
        )
    with nequip("nequip.model") as models:
        graph = models.NequIPGNNModel(compile_mode=compile_mode, **nequip_options(potential))
    values = dict(graph.model.func.state_dict(keep_vars=True))
    with torch.no_grad():
        for name, parameter in potential.network.named_parameters():
            if not name.startswith("scale_shift."):  # these are among the options
                theirs = values[names_in_nequip(potential.config)[name]]
                theirs.copy_(parameter.reshape(theirs.shape))
    return graph.eval()


def export_nequip(potential: Potential, path: str | os.PathLike) -> None:
    """Write the network of `potential` as a checkpoint of nequip, and check what nequip reads from it.

    The file holds tensors and plain values only. `nequip.model.ModelFromCheckpoint` opens it.

    Raises:
        NequipError: see `to_nequip`; or nequip reads something else from the file: none is left then.
    """
    graph = to_nequip(potential)
    options = {"_target_": "nequip.model.NequIPGNNModel", **nequip_options(potential)}
    with nequip("nequip.utils") as utils:
        versions = utils.get_current_code_versions(verbose=False)
    content = {
        "state_dict": {f"model.{SOLE_MODEL}.{name}": value for name, value in graph.state_dict().items()}
        | {"run_stage": torch.zeros(1, dtype=torch.int64)},
        "hyper_parameters": {
            "model": options,
            "num_datasets": {"train": 1, "val": 0, "test": 0, "predict": 0},
            "info_dict": {
                "versions": versions,
                "training_module": {"_target_": "nequip.train.NequIPLightningModule"},
            },
        },
        "pytorch-lightning_version": importlib.metadata.version("lightning"),
    }
    path = Path(path)
    with atomically(path) as written:
        torch.save(content, written)
        back = dict(import_model(_load(written)).network.named_parameters())
        for name, parameter in potential.network.named_parameters():
            if not torch.equal(back[name], parameter.cpu()):
                raise NequipError(f"nequip reads another {name} than was written to {path}: no file is left")


def export_nequip_state(
    potential: Potential, path: str | os.PathLike, tabulation: float | None = None
) -> dict[str, Any]:
    """`export_nequip`, as one of the formats of `uqforce export`.

    Raises:
        ExportError: a `tabulation`, which has no meaning here.
    """
    if tabulation is not None:
        raise ExportError("tabulation has no meaning with format nequip-state: leave it out")
    export_nequip(potential, path)
    log.info(f"{path}: a checkpoint of nequip, open it with nequip.model.ModelFromCheckpoint")
    heads = {"mixture": potential.mixture.means.shape[0] > 0, "noise": potential.config.noise != "none"}
    if left := [name for name, present in heads.items() if present]:
        log.info(f"nequip has no place for the {' and the '.join(left)}, which stay behind")
    log.info("checked: nequip reads the same weights from it")
    return {"type_names": list(potential.config.type_names), "cutoff": potential.config.r_max}

"""Models compiled ahead of time (AOTInductor): one package for Python, C++ and LAMMPS, any number of atoms.

A package holds a library for each of its methods, compiled for the kind of processor that wrote it, and
`metadata.json` as every exported file. Its methods take and return tensors only:

    forward(edge_vec [E,3], edge_index [2,E], atom_types [N], batch [N], structures [B])
    domain(edge_vec, edge_index, atom_types, numbers [N], owned [n]), domain_plain(the same)

`structures` and `owned` are read for their lengths alone; the results stand in the order of
`metadata["methods"][name]`. `domain` is that of `InferencePotential` with exchange, `domain_plain` the same
without uncertainties.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from uqforce.ahead_of_time import compile_module
from uqforce.errors import InputError, ModelFileError
from uqforce.model import Graph, InferencePotential, sample_structure

CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")  # of a processor, as torch names them, each with those before


class _Method(nn.Module):
    """A function of tensors that returns the named fields of what it computes."""

    def __init__(self, potential: InferencePotential, names: list[str]) -> None:
        super().__init__()
        self.potential, self.names = potential, names

    def fields(self, prediction: dict[str, Tensor]) -> list[Tensor]:
        return [prediction[name] for name in self.names]


class _Forward(_Method):
    def forward(self, edge_vec, edge_index, atom_types, batch, structures):
        graph = Graph(edge_vec, edge_index, atom_types, batch, structures.shape[0])
        return self.fields(self.potential.forward(graph))


class _Domain(_Method):
    uncertain = True

    def forward(self, edge_vec, edge_index, atom_types, numbers, owned):
        batch = torch.zeros(owned.shape[0], dtype=torch.int64, device=edge_vec.device)
        graph = Graph(edge_vec, edge_index, atom_types, batch, 1, True, True, numbers)
        return self.fields(self.potential.forward(graph, self.uncertain))


class _DomainPlain(_Domain):
    uncertain = False


def methods(module: nn.Module, description: dict[str, Any]) -> dict[str, _Method]:
    """The methods of a package, of an `ExportedPotential` with that `domain_description`."""
    potential, carried = module.potential, module.carries
    names = ["energies", "edge_gradient", *description["per_atom"], *description["per_structure"]]
    made = {"forward": _Forward(potential, carried), "domain": _Domain(potential, names)}
    plain = ["energies", "edge_gradient"]
    if set(names) > set(plain):
        made["domain_plain"] = _DomainPlain(potential, plain)
    return made


def compile_method(
    method: nn.Module, arguments: tuple[Tensor, ...], shapes: tuple, described: dict[str, str] | None = None
) -> list[str]:
    """The files of a package's method, compiled for tensors like `arguments` with the `shapes` dynamic."""
    import torch.fx.experimental._config as symbolic_shapes

    # No size is special, not even 0 or 1.
    with symbolic_shapes.patch(backed_size_oblivious=True):
        return compile_module(method, arguments, shapes, described)


def compile_package(module: nn.Module, path: Path, description: dict[str, Any]) -> dict[str, Any]:
    """Write the package; returns `description` with "methods" and "processor" added, as it is in the file."""
    from torch.export.pt2_archive._package import package_pt2

    rows = {0: torch.export.Dim.DYNAMIC}
    shapes = (rows, {1: torch.export.Dim.DYNAMIC}, rows, rows, rows)
    edges_and_atoms = sample_structure(module.potential)[:4]
    files: dict[str, list[str]] = {}
    made = methods(module, description["domain"])
    description = description | {
        "methods": {name: method.names for name, method in made.items()},
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
    for name, method in tqdm(made.items(), "compiling", leave=False, disable=None):
        # Lengths that nothing else has, lest two be taken for one: 2 structures, 37 of 54 atoms.
        arguments = (*edges_and_atoms, torch.zeros(2 if name == "forward" else 37))
        files[name] = compile_method(method, arguments, shapes)
    package_pt2(str(path), aoti_files=files, extra_files={"metadata.json": json.dumps(description, indent=1)})
    return description


class CompiledPotential(nn.Module):
    """The `forward` of a package, with the arguments and results of an `ExportedPotential`.

    Raises:
        ModelFileError: it was compiled for another torch or for a better processor.
    """

    def __init__(self, path: str | os.PathLike, description: dict[str, Any]) -> None:
        super().__init__()
        check_processor(path, description)
        try:
            self.package = torch._C._aoti.AOTIModelPackageLoader(str(path), "forward", False, 1, -1)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelFileError(
                f"{path} was compiled with torch {description['torch_version']} and does not load in torch "
                f"{torch.__version__} ({reason}): export it here"
            ) from error
        self.names = description["methods"]["forward"]
        self.eval()

    def forward(
        self, edge_vec: Tensor, edge_index: Tensor, atom_types: Tensor, batch: Tensor, num_structures: int
    ) -> dict[str, Tensor]:
        """See `ExportedPotential.forward`. Compiled code trusts types and strides: here they are checked."""
        integers = {"edge_index": edge_index, "atom_types": atom_types, "batch": batch}
        for name, tensor in integers.items():
            if tensor.dtype != torch.int64:
                raise TypeError(f"{name} is {tensor.dtype}, expected torch.int64")
        if edge_vec.shape != (edge_index.shape[-1], 3) or batch.shape != atom_types.shape:
            raise InputError(
                f"edge_vec {list(edge_vec.shape)} and edge_index {list(edge_index.shape)}, or atom_types "
                f"{list(atom_types.shape)} and batch {list(batch.shape)} do not belong together"
            )
        arguments = [edge_vec.detach().to(torch.float64).contiguous()]
        arguments += [tensor.contiguous() for tensor in integers.values()]
        return dict(zip(self.names, self.package.run([*arguments, torch.zeros(num_structures)])))


def check_processor(path: str | os.PathLike, description: dict[str, Any]) -> None:
    """Raises a `ModelFileError` where this processor lacks instructions of the file."""
    wanted, found = description["processor"], torch.backends.cpu.get_cpu_capability()
    if wanted not in CAPABILITIES or found not in CAPABILITIES:
        same = wanted == found
    else:
        same = CAPABILITIES.index(wanted) <= CAPABILITIES.index(found)
    if not same:
        raise ModelFileError(
            f"{path} was compiled for a processor with {wanted}, this one has {found}: export it here"
        )

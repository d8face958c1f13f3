"""Writes the files of this folder; run once with uqforce 0.1.0 (commit aa62ba7), whose files they are.

    python tests/files_of_0_1_0/make.py

test_files_of_0_1_0.py opens them with the present uqforce.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from uqforce.deploy.export import export

from uqforce.model import Ensemble, ModelConfig, Potential, sample_structure, save_model

HERE = Path(__file__).parent
FIELDS = {
    "type_names": ["H", "O"],
    "r_max": 3.0,
    "num_layers": 2,
    "l_max": 1,
    "num_features": [4, 3],
    "radial_mlp_width": 4,
    "num_bessels": 4,
    "per_type_energy_shifts": {"H": -1.0, "O": -2.0},
    "dtype": "float64",
}
MAP = torch.tensor([[0.01, 1.0, 3.0], [0.1, 2.0, 5.0]], dtype=torch.float64)


def complete(seed: int, **fields) -> Potential:
    """With everything that a model of 0.1.0 can carry."""
    torch.manual_seed(seed)
    potential = Potential(ModelConfig(**FIELDS, **fields)).eval()
    d = potential.network.num_last_features
    identity = torch.eye(d, dtype=torch.float64)
    potential.set_mixture(0.1 * identity, (1 + identity).tril().repeat(d, 1, 1), -torch.ones(d))
    potential.rigidity.store(0.3 + identity)
    potential.calibration.store(energy=MAP, forces=2 * MAP, error=0.5 * MAP, origin=torch.tensor(-3.0))
    potential.card["author"] = "uqforce 0.1.0"
    return potential


def main() -> None:
    models = {
        "local": complete(1, noise="local", heads=2),
        "total": complete(2, noise="total"),
        "ensemble": Ensemble([complete(3, noise="white"), complete(4, noise="white")], ddof=1),
    }
    case = dict(zip(("edge_vec", "edge_index", "atom_types", "batch"), sample_structure(models["local"])))
    tensors = dict(case)
    for name, model in models.items():
        save_model(model, HERE / f"{name}.uqf")
        for key, value in model(*case.values(), 2)._asdict().items():
            if value.numel() > 0 and key != "edge_gradient":
                tensors[f"{name}.{key}"] = value.contiguous().clone()
    export(models["local"], HERE / "local.pt", tabulation=1e-6)
    module = torch.jit.load(HERE / "local.pt")
    n = len(case["atom_types"])
    with torch.jit.optimized_execution(False):
        calls = {
            "forward": module(*case.values(), 2),
            "nll_gradient": module.nll_gradient(*case.values(), 2, "max"),
            "domain": module.domain(*list(case.values())[:3], torch.arange(n), n, False, True),
        }
    for call, out in calls.items():
        tensors |= {f"{call}.{k}": v.contiguous().clone() for k, v in out.items() if k != "edge_gradient"}
    save_file(tensors, HERE / "expected.safetensors")


if __name__ == "__main__":
    main()

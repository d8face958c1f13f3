"""Where the time of a model's evaluation and of a training step goes, kernel by kernel.

`python bench/device/kernel_profile.py FOLDER` writes profile.txt, after every step anew. With --plain the
steps run once, not profiled: what counters.py gives to ncu.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from card import REHEARSAL, device_name

CELLS = 1 if REHEARSAL else 23  # along an axis: 97 336 atoms
COUNTED_CELLS = 1 if REHEARSAL else 12  # 13 824: ncu runs a kernel many times
ROWS = 60


def steps(device: str, cells: int) -> dict[str, Callable[[], object]]:
    from device_models import model
    from device_training import CELLS, REPEAT
    from training import crystals, our_step, untrained

    from uqforce.data import Batch

    types, on_host = crystals(CELLS, REPEAT)
    batch = Batch(*(part.to(device) if isinstance(part, torch.Tensor) else part for part in on_host))
    atoms = 8 * cells**3
    return {
        f"model M, {atoms} atoms": model("M", cells),
        f"model M, {atoms} atoms, with the score's gradient": model("M", cells, "mean"),
        f"training step M, {len(batch.positions)} atoms": our_step(untrained(types, batch, "M"), batch),
    }


def table(step: Callable[[], object], device: str) -> str:
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, kinds.CUDA] if device == "cuda" else [kinds.CPU]
    step()
    with torch.profiler.profile(activities=activities) as profile:
        step()
        if device == "cuda":
            torch.cuda.synchronize()
    key = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    return profile.key_averages().table(sort_by=key, row_limit=ROWS, max_name_column_width=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plain", action="store_true")
    args, device = parser.parse_args(), device_name()
    texts = []
    for name, step in steps(device, COUNTED_CELLS if args.plain else CELLS).items():
        if args.plain:
            step()
        else:
            texts.append(f"{name}\n{table(step, device)}")
            (args.folder / "profile.txt").write_text("\n\n".join(texts))
        print(name, "done", flush=True)


if __name__ == "__main__":
    main()

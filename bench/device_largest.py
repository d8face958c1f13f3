"""The largest system whose energy, forces, virial and scores fit on a CUDA device."""

import time
from collections.abc import Iterator

import torch
from device_models import SIZES, edges_of, model
from device_sizes import DEVICE, REHEARSAL, is_there
from timing import Case, cuda_peak_bytes, measure

REPEAT = 2 if REHEARSAL else 50
SEARCH_SECONDS = 0 if REHEARSAL else 20


def cases() -> Iterator[Case]:
    """From a million atoms on, an eighth more cells along an axis each time, until memory or time ends."""
    if not is_there():
        return
    for size in SIZES:
        start, repeat, rows, end = time.perf_counter(), REPEAT, [], "no time for more"
        # The next one takes six times as long at most: it is larger by half, and is called four times.
        while not rows or time.perf_counter() - start + 6e-3 * rows[0]["median_ms"] < SEARCH_SECONDS:
            atoms = 8 * repeat**3
            try:
                function = model(size, repeat)
                peak, (seconds, computed) = cuda_peak_bytes(function), measure(function)
            except torch.OutOfMemoryError:
                end = f"{atoms} do not fit"
                break
            milliseconds = dict.fromkeys(("median_ms", "min_ms", "max_ms"), 1e3 * seconds)
            memory = {"peak_mb": peak / 1e6, "peak_bytes_per_atom": peak / atoms}
            row = {"rival": "uqforce", **milliseconds, "cpu_ms": 1e3 * computed, "calls": 1, **memory}
            rows, most = [row | {"ns_per_atom": 1e9 * seconds / atoms}], atoms
            edges_of.cache_clear()
            repeat += max(1, repeat // 8)
        if rows:
            title = f"largest model {size}, {most} atoms; {end}"
            yield Case(title, "atom", most, {}, device=DEVICE, measured=rows)

"""Each op's forward, backward and double backward once, nothing else: what the sanitizers and ncu run.

A line before every step, so that a log cut off tells how far it came. `--edges N` for larger inputs.
"""

import argparse

import torch
from card import device_name
from op_calls import op_calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, default=100)
    args, device = parser.parse_args(), device_name()
    for dtype in (torch.float32, torch.float64):
        for call in op_calls(dtype, args.edges):
            call.results(
                device, lambda step, call=call, dtype=dtype: print(call.name, dtype, step, flush=True)
            )
            if device == "cuda":
                torch.cuda.synchronize()
    print("every op ran", flush=True)


if __name__ == "__main__":
    main()

"""Runs an exported model in a process that imports torch alone.

`export` starts this text in a new interpreter: MODEL LIBRARY INPUTS OUTPUTS. It must not import uqforce.
"""

import json
import sys
import zipfile

import torch

model, library, inputs, outputs = sys.argv[1:]
torch.ops.load_library(library)
cases = torch.load(inputs, weights_only=True)


def script(method, arguments):
    """A new module for every case: its first call runs the code as written, the third what became of it."""
    module = torch.jit.load(model)
    return [getattr(module, method)(*arguments) for _ in range(3)]


def package(method, arguments):
    """Numbers of structures and atoms are lengths of tensors; `uncertain` chooses the method."""
    with zipfile.ZipFile(model) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("extra/metadata.json"))
        methods = json.loads(archive.read(name))["methods"]
    if method == "domain" and arguments[-1] is False and "domain_plain" in methods:
        method = "domain_plain"
    loader = torch._C._aoti.AOTIModelPackageLoader(model, method, False, 1, -1)
    tensors = [torch.zeros(x) if isinstance(x, int) else x for x in arguments if not isinstance(x, bool)]
    return [dict(zip(methods[method], loader.run(tensors))) for _ in range(3)]


run = package if model.endswith(".pt2") else script
torch.save([run(method, arguments) for method, arguments in cases], outputs)
assert "uqforce" not in sys.modules

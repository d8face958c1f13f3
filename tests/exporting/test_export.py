"""The exported file gives what the Python model gives, in a process without uqforce, or it is not written."""

import json
import pickle
import zipfile

import pytest
import torch

from uqforce import __version__
from uqforce.errors import ExportError
from uqforce.exporting import checked
from uqforce.exporting.export import export
from uqforce.exporting.exported_potential import FORMAT_VERSION
from uqforce.exporting.opening import call, load_exported, open_model, read_metadata
from uqforce.model import InferencePotential, sample_structure, save_model

RUN = """
results = []
for case in torch.load(sys.argv[2], weights_only=True):
    module = torch.jit.load(sys.argv[1])
    results.append([module(*case) for _ in range(3)])
torch.save(results, sys.argv[3])
print(sorted(name for name in sys.modules if name.split(".")[0] in ("uqforce", "e3nn", "ase")))
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("uncertain", [False, True])
@pytest.mark.parametrize("tabulation", [0, None])
def test_same_numbers_in_a_process_that_imports_torch_only(
    dtype, uncertain, tabulation, make_potential, fresh_process, tmp_path
):
    potential = make_potential(dtype, mixture=uncertain, noise="total" if uncertain else "none")
    path, inputs, outputs = tmp_path / "model.pt", tmp_path / "inputs", tmp_path / "outputs"
    export(potential, path, tabulation)
    if tabulation is None and dtype == "float32":
        potential = InferencePotential(potential)  # in float64 the tables' error is below the bound
    single = sample_structure(potential, seed=5)
    half = single[1].max(0).values < 27
    cases = [
        sample_structure(potential, seed=4),
        (single[0][half], single[1][:, half], single[2][:27], torch.zeros(27, dtype=torch.int64), 1),
    ]
    torch.save(cases, inputs)
    printed = fresh_process(RUN, path, inputs, outputs)
    assert printed.strip() == "['uqforce']"  # the fixture's None in its place: importing it fails

    for case, calls in zip(cases, torch.load(outputs, weights_only=True)):
        prediction = potential(*case).as_dict()
        carried = set(prediction)
        assert ("nll" in carried) == ("forces_uncertainty" in carried) == uncertain
        for number, got in enumerate(calls):
            assert set(got) == carried
            for name, value in got.items():
                want = prediction[name]
                exact = number == 0 or dtype == "float64" or name in ("energy", "energies", "nll", "features")
                # later calls: rounding of TorchScript's own float32 derivatives
                bound = 1e-9 if exact else 1e-6 * max(1.0, want.abs().max().item())
                torch.testing.assert_close(value, want, rtol=0, atol=bound)


def test_arguments_and_results_carry_no_graph(exported, potential):
    """Freezing drops `detach`; neither the caller's tensor nor the results may show it."""
    module, _ = load_exported(exported)
    case = sample_structure(potential)
    for _ in range(3):
        out = module(*case)
        assert not case[0].requires_grad
        assert not any(value.requires_grad for value in out.values())


def test_wrong_types_of_arguments(exported, potential):
    module, _ = load_exported(exported)
    edge_vec, edge_index, *rest = sample_structure(potential)
    with pytest.raises(Exception, match="edge_index is Int, expected Long"):
        module(edge_vec, edge_index.int(), *rest)
    with pytest.raises(Exception, match="edge_index"):
        module(edge_vec, edge_index[:, :-1], *rest)
    rounded = edge_vec.float()
    assert torch.equal(
        call(module, rounded, edge_index, *rest)["forces"],
        call(module, rounded.double(), edge_index, *rest)["forces"],
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_call_is_like_the_later_ones(dtype, make_potential, tmp_path):
    export(make_potential(dtype), tmp_path / "model.pt")
    module, _ = open_model(tmp_path / "model.pt")
    case = sample_structure(make_potential())
    first, *later = [call(module, *case) for _ in range(4)]
    assert all(torch.equal(out[name], first[name]) for out in later for name in first)


def test_metadata(exported, make_potential):
    description = read_metadata(exported)
    assert description["format_version"] == FORMAT_VERSION
    assert description["uqforce_version"] == __version__
    assert description["torch_version"] == torch.__version__
    assert description["type_names"] == ["H", "C", "O"]
    assert description["cutoff"] == 3.5
    assert description["edge_type_cutoffs"] == [[3.5] * 3] * 3
    assert description["num_layers"] == 2
    assert description["dtype"] == "float64"
    assert description["outputs"]["forces"] == "eV/A"
    assert description["outputs"]["forces_uncertainty"] == "eV/A"
    assert description["thresholds"] == {"nll": {"q0.99": 12.5, "max": 20.0}}
    assert len(description["weights_sha256"]) == 64
    other = make_potential()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    assert open_model(other)[1]["weights_sha256"] != description["weights_sha256"]


def test_the_model_given_is_untouched(make_potential, tmp_path):
    potential = make_potential().train()
    export(potential, tmp_path / "model.pt")
    open_model(potential)
    assert potential.training
    assert any(p.requires_grad for p in potential.parameters())


@pytest.mark.parametrize("number", [0, 2])
def test_no_file_is_left_when_the_check_fails(potential, tmp_path, monkeypatch, number):
    target = tmp_path / "folder" / "model.pt"
    good = checked.run_in_new_process

    def wrong(*arguments):
        outputs = good(*arguments)
        outputs[0][number]["forces"][3, 1] += 1e-4 * max(1.0, outputs[0][0]["forces"].abs().max())
        return outputs

    monkeypatch.setattr(checked, "run_in_new_process", wrong)
    with pytest.raises(ExportError, match=r"another forces of two structures"):
        export(potential, target)
    assert list(target.parent.iterdir()) == []
    target.write_text("an older model")
    with pytest.raises(ExportError):
        export(potential, target)
    assert target.read_text() == "an older model"


def test_a_process_that_fails_is_reported(potential, tmp_path, monkeypatch):
    monkeypatch.setattr(checked, "LIBRARY_PATH", tmp_path / "missing.so")
    with pytest.raises(ExportError, match=r"fresh process:[\s\S]*missing\.so"):
        export(potential, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        open_model(tmp_path / "nothing.pt")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.3, 0.9, -1])
def test_truncated_file(exported, tmp_path, keep):
    content = exported.read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"cut\.pt.*(truncated|not an exported model)"):
        open_model(cut)


def test_damaged_weights(exported, tmp_path):
    """A flipped bit in the stored weights does not pass."""
    with zipfile.ZipFile(exported) as archive:
        weights = max(
            (entry for entry in archive.infolist() if "/constants/" in entry.filename),
            key=lambda e: e.file_size,
        )
    content = bytearray(exported.read_bytes())
    content[weights.header_offset + 64 + weights.file_size // 2] ^= 1
    (tmp_path / "damaged.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.pt is damaged .*checksum"):
        load_exported(tmp_path / "damaged.pt")


def test_newer_format(exported, tmp_path):
    newer = tmp_path / "newer.pt"
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(newer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("metadata.json"):
                content = json.dumps(json.loads(content) | {"format_version": 99})
            new.writestr(name, content)
    with pytest.raises(ValueError, match=r"format 99, this uqforce .* reads up to 3: upgrade uqforce"):
        open_model(newer)


def test_wrong_kind_of_file(potential, tmp_path):
    save_model(potential, tmp_path / "model.uqf")
    (tmp_path / "renamed.pt").write_bytes((tmp_path / "model.uqf").read_bytes())
    with pytest.raises(ValueError, match="not an exported model"):
        open_model(tmp_path / "renamed.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="without uqforce's metadata: write it with `uqforce export"):
        open_model(tmp_path / "other.pt")


class Evil:
    def __reduce__(self):
        return open, ("evil-was-run", "w")


def test_nobodys_pickle_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "zip.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("zip.pt", "pickle.pt"):
        with pytest.raises(ValueError, match=r"not TorchScript|not an exported model"):
            open_model(name)
    assert not (tmp_path / "evil-was-run").exists()

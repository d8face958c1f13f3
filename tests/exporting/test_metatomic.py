"""Files for metatomic's engines; where metatomic-torch is installed."""

import numpy as np
import pytest

from uqforce import Calculator

pytest.importorskip("metatomic.torch", reason="metatomic-torch is not installed")


@pytest.fixture(scope="module")
def exported(potential, tmp_path_factory):
    """`export_metatomic` itself compares energy, forces and uncertainties in a fresh process."""
    from uqforce.exporting.metatomic import export_metatomic

    path = tmp_path_factory.mktemp("metatomic") / "model.pt"
    export_metatomic(potential, path)
    return path


def test_in_ase(exported, potential, crystal, molecule):
    """Energy, and forces and stress that the engine derives from it."""
    from metatomic_ase import MetatomicCalculator

    theirs, ours = MetatomicCalculator(str(exported), device="cpu"), Calculator(potential)
    for atoms in (crystal, molecule):
        for quantity in ("energy", "forces", *(["stress"] if atoms.pbc.any() else [])):
            got, want = (calculator.get_property(quantity, atoms) for calculator in (theirs, ours))
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-8, err_msg=quantity)


def test_what_it_says_of_itself(exported):
    from metatomic.torch import load_atomistic_model

    capabilities = load_atomistic_model(str(exported)).capabilities()
    assert capabilities.atomic_types == [1, 6, 8]
    assert {"energy", "energy_uncertainty", "uqforce::nll", "uqforce::forces_uncertainty"} <= set(
        capabilities.outputs
    )
    assert capabilities.interaction_range == pytest.approx(7.0)


def test_unknown_elements(exported, molecule):
    from metatomic_ase import MetatomicCalculator

    molecule.symbols[0] = "Si"
    with pytest.raises(Exception, match=r"atomic type|does not know"):
        MetatomicCalculator(str(exported), device="cpu").get_property("energy", molecule)

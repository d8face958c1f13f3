from tests.small_models import crystal, exported, make_potential, molecule, potential  # noqa: F401  (fixtures)

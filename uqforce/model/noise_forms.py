"""The forms of noise that there are, by name. Light: the configuration reads it, and no form is imported."""

from typing import NamedTuple


class NoiseForm(NamedTuple):
    """What is known of a form before it is made.

    Attributes:
        place: "module:class" of its `uqforce.model.noise.terms.Noise`, imported when it is made.
        meaning: in a few words, for the configuration's help.
        likelihoods: properties whose likelihood it can be trained with.
    """

    place: str
    meaning: str
    likelihoods: tuple[str, ...] = ("energy", "forces", "stress")


NOISE_FORMS: dict[str, NoiseForm] = {
    "none": NoiseForm("uqforce.model.noise.terms:Noise", "no noise", ()),
    "total": NoiseForm("uqforce.model.noise.total:TotalNoise", "coherent, structures of like size"),
    "local": NoiseForm("uqforce.model.noise.local:LocalNoise", "coherent, any size"),
    "local-deep": NoiseForm(
        "uqforce.model.noise.deep:DeepNoise", "of the last features, for reports", ("energy",)
    ),
    "white": NoiseForm(
        "uqforce.model.noise.white:WhiteNoise", "energies and forces apart", ("energy", "forces")
    ),
}

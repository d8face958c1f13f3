"""The errors that models, exports and engines report."""


class DeployError(ValueError):
    """A structure, setting or device that cannot be used; the message says which and what to do."""


class NotFiniteError(FloatingPointError):
    """The model returned an energy or a force that is not finite."""


class ExportError(RuntimeError):
    """The exported file could not be written, or did not give what the model gives."""


class NequipError(ValueError):
    """A nequip model cannot be read or carried over; the message says why."""


class UncertaintyExceeded(RuntimeError):
    """An uncertainty is above its threshold.

    Attributes: `quantity` ("nll" or "forces_uncertainty"), `atom` (index), `symbol`, `value`, `threshold`.
    """

    def __init__(self, quantity: str, atom: int, symbol: str, value: float, threshold: float):
        super().__init__(f"{quantity} of atom {atom} ({symbol}) is {value:.4g}, above {threshold:.4g}")
        self.quantity, self.atom, self.symbol = quantity, atom, symbol
        self.value, self.threshold = value, threshold


class UncertaintyWarning(UserWarning):
    """An uncertainty is above its threshold."""

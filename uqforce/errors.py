"""The errors that uqforce reports. Each names the value and the fix; the command line prints it.

All inherit `UqforceError`, and beside it the builtin exception that a Python programmer would expect.
"""


class UqforceError(Exception):
    """Everything that uqforce reports of its own accord is one of these."""


class InstallationError(UqforceError, ImportError):
    """uqforce is not built for the torch that is running, or a package that this needs is not installed."""


class InputError(UqforceError, ValueError):
    """A structure, array, setting or device cannot be used."""


class DataError(UqforceError, ValueError):
    """Labelled frames cannot be used; the message names the file and the frame."""


class ConfigError(UqforceError, ValueError):
    """A configuration cannot be used; the message names the field."""


class ModelError(UqforceError, ValueError):
    """A model cannot be made, or has not what is asked of it."""


class ModelFileError(ModelError):
    """A file is not a model that this uqforce can read."""


class LossError(UqforceError, ValueError):
    """A loss cannot be computed from these labels and settings."""


class TrainingError(UqforceError, RuntimeError):
    """Training cannot go on."""


class CheckpointError(UqforceError, RuntimeError):
    """A checkpoint cannot be written or read, or is not this run's."""


class FitError(UqforceError, ValueError):
    """What is fitted to a trained model cannot be fitted with these data and settings."""


class MixtureError(FitError):
    """A mixture cannot be fitted to these features."""


class NoiseError(FitError):
    """The width gamma of a noise cannot be fitted."""


class CalibrationError(FitError):
    """There is nothing to calibrate, or too little to calibrate it with."""


class NotFiniteError(UqforceError, FloatingPointError):
    """A model returned an energy or a force that is not finite."""


class ExportError(UqforceError, RuntimeError):
    """An exported file could not be written, or does not give what the model gives; no file is left."""


class NequipError(UqforceError, ValueError):
    """A nequip model cannot be read or carried over."""


class PluginError(UqforceError, RuntimeError):
    """The plugin for LAMMPS cannot be built."""


class UncertaintyExceeded(UqforceError, RuntimeError):
    """An uncertainty is above its threshold.

    Attributes: `quantity` ("nll" or "forces_uncertainty"), `atom` (index), `symbol`, `value`, `threshold`.
    """

    def __init__(self, quantity: str, atom: int, symbol: str, value: float, threshold: float):
        super().__init__(f"{quantity} of atom {atom} ({symbol}) is {value:.4g}, above {threshold:.4g}")
        self.quantity, self.atom, self.symbol = quantity, atom, symbol
        self.value, self.threshold = value, threshold


class UncertaintyWarning(UserWarning):
    """An uncertainty is above its threshold."""

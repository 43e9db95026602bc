"""What the learning side refuses."""

from secure_afl.crypto.errors import SecureAflError


class DataError(SecureAflError, ValueError):
    """Rows, labels or columns that do not fit what was agreed; says what was expected and what came."""


class SettingError(DataError):
    """A setting that no run can have, or that contradicts another one. setting: its name; fault: what is wrong with it."""

    def __init__(self, setting: str, fault: str) -> None:
        self.setting = setting
        self.fault = fault
        super().__init__(f"{setting}: {fault}")


class DropoutWarning(UserWarning):
    """A sum is right, but not over everybody: somebody dropped out or was left out."""


class GroupWarning(UserWarning):
    """Fewer groups than were asked for: some were too small to hide their members."""


class SolveError(SecureAflError, ValueError):
    """The aggregated system cannot be solved with a guarantee.

    outcome: the `Aggregate` that was to be solved, if it was opened: the data are spent for it, and it can be solved
    with other parameters.
    """

    outcome: object = None


class ColumnWarning(UserWarning):
    """A column is constant, or its values are so far below its bound that few of their digits count."""


class LabelWarning(UserWarning):
    """A regressor got targets that look like labels of classes."""

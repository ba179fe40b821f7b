"""Every error that Holdfast raises on purpose, and the exit code that its commands end with.

    HoldfastError            1
    ├── ConfigError          2   build.yaml, target, ladder, command line
    ├── InputError           2   prompt, image, data file
    ├── CheckpointError      3   a Hugging Face directory that can't be read or is not understood
    ├── BundleError          3   a bundle that can't be opened
    │   ├── DigestError      3   a file of the bundle is not the file that was built
    │   ├── SignatureError   3   no signature that the trust file accepts
    │   ├── ReleaseError     3   an older release than the one that was installed
    │   └── AdmissionError   3   a depth, schedule or bundle that the gate did not admit
    ├── BudgetError          4   no depth fits the budget
    ├── BackendError         5   an engine can't be loaded or run
    ├── CompileError         5   an engine can't be built
    ├── TrainingError        5   a training that can't go on
    ├── StorageError         6   disk full, no permission, destination exists
    └── MissingExtraError    7   a package of an extra is not installed

Exit code 0 is success, 1 a check that was run and did not hold, 130 an interrupt.
"""

from __future__ import annotations

__all__ = [
    "AdmissionError",
    "BackendError",
    "BudgetError",
    "BundleError",
    "CheckpointError",
    "CompileError",
    "ConfigError",
    "DigestError",
    "HoldfastError",
    "InputError",
    "MissingExtraError",
    "ReleaseError",
    "SignatureError",
    "StorageError",
    "TrainingError",
]


class HoldfastError(Exception):
    """What went wrong, and for the reader: what was found, what was expected, what to do."""

    exit_code = 1

    def __init__(self, what: str, *, found: object = None, expected: object = None, remedy: str | None = None) -> None:
        self.what = what
        self.found = None if found is None else str(found)
        self.expected = None if expected is None else str(expected)
        self.remedy = remedy
        parts = (("found", self.found), ("expected", self.expected), ("remedy", self.remedy))
        super().__init__("\n".join([what, *(f"  {name}: {text}" for name, text in parts if text is not None)]))


class ConfigError(HoldfastError):
    """A build.yaml, target, ladder or command line that does not hold together."""

    exit_code = 2


class InputError(HoldfastError):
    """A prompt, image or data file that can't be used."""

    exit_code = 2


class CheckpointError(HoldfastError):
    """A Hugging Face directory that can't be read or whose family is unknown."""

    exit_code = 3


class BundleError(HoldfastError):
    """A bundle that can't be opened."""

    exit_code = 3


class DigestError(BundleError):
    """A file of the bundle is not the one that was built."""


class SignatureError(BundleError):
    """A bundle without a signature that the trust file accepts."""


class ReleaseError(BundleError):
    """A bundle that is older than one that was installed."""


class AdmissionError(BundleError):
    """A depth, a schedule or a whole bundle that the gate did not admit."""


class BudgetError(HoldfastError):
    """No depth fits the budget."""

    exit_code = 4

    def __init__(self, what: str, *, budget_ms: float, predicted_ms: float, remedy: str) -> None:
        self.budget_ms = budget_ms
        self.predicted_ms = predicted_ms
        super().__init__(
            what,
            found=f"{predicted_ms:.0f} ms predicted",
            expected=f"at most {budget_ms:.0f} ms ({predicted_ms - budget_ms:.0f} ms less)",
            remedy=remedy,
        )


class BackendError(HoldfastError):
    """An engine can't be loaded or run."""

    exit_code = 5


class CompileError(HoldfastError):
    """An engine can't be built; carries the compiler's own words."""

    exit_code = 5


class TrainingError(HoldfastError):
    """A training that can't go on; says where its last good state is."""

    exit_code = 5


class StorageError(HoldfastError):
    """The disk is full, the place is not writable, or something already lies there."""

    exit_code = 6


class MissingExtraError(HoldfastError):
    """A package that belongs to an extra is not installed."""

    exit_code = 7

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package '{package}' is not installed",
            expected=f"the extra '{extra}' of holdfast",
            remedy=f"pip install 'holdfast[{extra}]'",
        )

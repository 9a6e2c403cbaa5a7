"""Everything that can go wrong for a user, each with its exit code.

    UnetError                     1   a bug, unless a subclass says otherwise
    ├── UsageError                2   wrong options, a path that is absent
    ├── InputError                3   image, mask or data set
    │   └── Problems                  several of them, found together
    ├── ModelFileError            4   not a model file, damaged, does not fit
    ├── OutputError               5   cannot be written, or must not be replaced
    ├── ResourceError             6   memory, device, shared memory, open files
    ├── PartialFailure            7   some of several inputs failed
    ├── DivergedError             8   training diverged
    └── LimitError                9   --fail-under or --fail-over not met

An error is shown as two lines: ``error: <path>: <message>`` and ``hint: <hint>``.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path


class UnetError(Exception):
    """A failure with a message for the user.

    Parameters
    ----------
    message : what is wrong, with numbers.
    path : the file or folder concerned; shown before the message.
    hint : the remedy, with a command or an option where there is one.
    """

    exit_code = 1

    def __init__(self, message: str, *, path: Path | str | None = None, hint: str | None = None) -> None:
        super().__init__(message, path, hint)
        self.message = message
        self.path = path
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.path is None else f"{self.path}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:  # keyword arguments survive the way back from a worker process
        return _rebuild, (type(self), self.message, self.path, self.hint)


def _rebuild(kind: type[UnetError], message: str, path: Path | str | None, hint: str | None) -> UnetError:
    return kind(message, path=path, hint=hint)


class UsageError(UnetError):
    """Wrong usage, a named path that is absent, or a glob without match."""

    exit_code = 2


class InputError(UnetError):
    """An image, mask or data set that cannot be used."""

    exit_code = 3


class Problems(InputError):
    """All problems of an input, found together before any work starts."""

    def __init__(self, problems: Sequence[UnetError]) -> None:
        first = problems[0]
        super().__init__(f"{len(problems)} problems, the first: {first}", hint=first.hint)
        self.problems = tuple(problems)
        self.exit_code = first.exit_code

    def __reduce__(self) -> tuple[object, ...]:
        return Problems, (self.problems,)


class ModelFileError(UnetError):
    """A model file that is damaged, foreign, or does not fit."""

    exit_code = 4


class OutputError(UnetError):
    """An output that cannot be written, or would replace what must not be replaced."""

    exit_code = 5


class ResourceError(UnetError):
    """Memory, device, shared memory or open files ran out or are absent."""

    exit_code = 6


class PartialFailure(UnetError):
    """Some of several inputs failed and at least one succeeded."""

    exit_code = 7


class DivergedError(UnetError):
    """Training diverged; the best finite model is kept."""

    exit_code = 8


class LimitError(UnetError):
    """A score missed the limit given by ``--fail-under`` or ``--fail-over``."""

    exit_code = 9


class UnetWarning(UserWarning):
    """Something the user should know although the work goes on.

    Parameters
    ----------
    message, path : what, and the file that it is about.
    """

    def __init__(self, message: str, path: Path | str | None = None) -> None:
        super().__init__(message if path is None else f"{path}: {message}")
        self.message = message
        self.path = path


_OUT_OF_MEMORY = (
    "out of memory",
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine",  # cuDNN, nearly always for want of room to work in
)
_quiet = ContextVar("quiet", default=False)


@contextmanager
def told_before() -> Iterator[None]:
    """Keep `warn` quiet in this thread: what it would say was said when the same files were examined."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


def warn(message: str, *, path: Path | str | None = None) -> None:
    """Issue a `UnetWarning`; the command line shows each one once as ``warning: <path>: <message>``."""
    if not _quiet.get():
        warnings.warn(UnetWarning(message, path), stacklevel=2)


def tells_lack_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or a library below it means that memory ran out."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in _OUT_OF_MEMORY)


def raise_all(problems: Sequence[UnetError]) -> None:
    """Raise the one problem as it is, several as `Problems`, none not at all."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Problems(problems)

"""What people and pipelines see: results on stdout, everything else on stderr, one exit code."""

import contextlib
import errno
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from unetcli import __version__
from unetcli.cli.places import check_document
from unetcli.errors import OutputError, Problems, ResourceError, UnetError, UnetWarning, tells_lack_of_memory

SCHEMA = 1  # of the JSON documents
EXIT_BUG = 1
EXIT_BROKEN_PIPE = 141
SIGNALS = {name: getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
WRITING_FAILED = {  # where the system says so of no input: those are looked at before
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG,
}  # fmt: skip


class Interrupted(BaseException):
    """A signal asked the program to stop; carries its exit code, 128 plus the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class ReaderGone(BaseException):
    """The reader of stdout went away; not an `OSError`, which typer would turn into exit code 1."""


class Console:
    """One run of a command: what it says, its warnings, its time, and its JSON document.

    Parameters
    ----------
    command : its name.
    quiet : show errors only.
    verbose : show more.
    json_target : where the document goes, "-" for stdout, None for none.
    """

    def __init__(
        self, command: str, *, quiet: bool = False, verbose: bool = False, json_target: str | None = None
    ) -> None:
        self.command = command
        self.quiet = quiet
        self.verbose = verbose
        self.json_target = json_target
        self.warnings: list[str] = []
        self.began = time.monotonic()
        self.documented = False

    def say(self, text: str) -> None:
        """Write a line for people to stderr."""
        if not self.quiet:
            write_line(sys.stderr, one_line(text))

    def say_more(self, text: str) -> None:
        """Write a line to stderr for those who asked with ``--verbose``."""
        if self.verbose:
            self.say(text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], *, result: bool = False) -> None:
        """Write aligned columns: a result to stdout, anything else to stderr. Numbers stand to the right."""
        if self.quiet and not result:
            return
        for line in format_table(header, rows):
            write_line(sys.stdout if result else sys.stderr, line)

    def result(self, text: str) -> None:
        """Write a line of the result to stdout."""
        write_line(sys.stdout, text)

    @property
    def prints_results(self) -> bool:
        """Whether stdout is free for a table: it is not where the JSON document goes there."""
        return self.json_target != "-"

    def document(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return a JSON document with the keys that every command's has."""
        return {
            "schema": SCHEMA,
            "version": __version__,
            "command": self.command,
            "seconds": round(time.monotonic() - self.began, 3),
            "warnings": list(self.warnings),
            **content,
        }

    def write_json(self, content: dict[str, Any]) -> None:
        """Write the document of this run where ``--json`` says, if it says anything; only the first one counts."""
        if self.json_target is None or self.documented:
            return
        self.documented = True
        text = json.dumps(finite(self.document(content)), indent=2, default=str)
        if self.json_target == "-":
            write_line(sys.stdout, text)
            return
        from unetcli.images.atomic import atomic_path

        with atomic_path(Path(self.json_target)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def _show_warning(self, message: Warning | str, category: type[Warning], *rest: object) -> None:
        if not issubclass(category, UnetWarning):
            return
        text = str(message)
        if text not in self.warnings:
            self.warnings.append(text)
            if not self.quiet:
                write_line(sys.stderr, f"warning: {one_line(text)}")


@contextlib.contextmanager
def console(
    command: str, *, quiet: bool = False, verbose: bool = False, debug: bool = False, json_target: str | None = None
) -> Iterator[Console]:
    """Run a command's body: show its warnings, turn its failure into two lines and an exit code.

    With ``--json`` a failure is a document too, with the keys `error`, `hint` and `exit`. ``--debug`` shows the
    traceback.
    """
    check_document(json_target)
    shown = Console(command, quiet=quiet, verbose=verbose, json_target=json_target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UnetWarning)
        warnings.showwarning = shown._show_warning  # type: ignore[assignment]
        try:
            yield shown
        except BrokenPipeError:
            raise ReaderGone from None
        except Exception as error:
            if type(error).__name__ == "Exit":  # typer's own way to leave
                raise
            if (signaled := interruption_behind(error)) is not None:
                raise signaled from None
            if debug:
                traceback.print_exc()
            failure = as_unet_error(error)
            if str(getattr(failure, "path", None)) == json_target:
                shown.documented = True  # the failure is about this very file: the document must not replace it
            with contextlib.suppress(OSError, UnetError):
                shown.write_json({"error": str(failure), "hint": failure.hint, "exit": failure.exit_code})
            if failure is error:
                raise
            raise failure from error


def guarded(call: Callable[[], Any]) -> int:
    """Run the whole program and return its exit code; nothing escapes but what is meant to."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        with signals_raise():
            code = call()
            if sys.stdout is not None:
                sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except Interrupted as interrupted:
        return interrupted.exit_code
    except (BrokenPipeError, ReaderGone):
        return EXIT_BROKEN_PIPE
    except Exception as error:
        signaled = interruption_behind(error)
        return show_failure(error) if signaled is None else signaled.exit_code
    finally:
        drop_unwritten()


def interruption_behind(error: BaseException | None) -> Interrupted | None:
    """Return the signal that led to an error, if one did: what it met halfway may fail on the way out."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


def drop_unwritten() -> None:
    """Empty the buffer of a stdout that takes nothing; Python would try it again at its end, and leave with 120."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError:  # closed
        pass


def show_failure(error: Exception) -> int:
    """Write ``error:`` and ``hint:`` lines to stderr and return the exit code."""
    failure = as_unet_error(error)
    problems = failure.problems if isinstance(failure, Problems) else (failure,)
    hints: list[str] = []
    for problem in problems:
        write_line(sys.stderr, f"error: {one_line(str(problem))}")
        if problem.hint and problem.hint not in hints:
            hints.append(problem.hint)
    for hint in hints:
        write_line(sys.stderr, f"hint: {one_line(hint)}")
    return failure.exit_code


def as_unet_error(error: Exception) -> UnetError:
    """Return the error of ours that stands for any exception; what is unknown is a bug and says so."""
    if isinstance(error, UnetError):
        return error
    if isinstance(error, OSError) and error.errno in WRITING_FAILED:
        said = (error.strerror or str(error)).lower()
        return OutputError(said, path=error.filename, hint="free space there, or name another place")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return ResourceError("too many open files", hint="ulimit -n 4096, or --workers 0")
    if tells_lack_of_memory(error):
        return ResourceError(
            "out of memory",
            hint="to train, a smaller --patch-size or --batch-size, or fewer --features; else a smaller --tile",
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):  # raised wherever the program just was
        said = str(error).splitlines()[0]
        return ResourceError(f"a data worker was killed ({said}), likely for lack of memory", hint="--workers 0")
    if isinstance(error, BrokenPipeError):
        raise error
    return UnetError(
        f"{type(error).__name__}: {error} (this is a bug in unet)",
        hint="run again with --debug and report what it prints",
    )


class _Interrupting:
    """What signals meet: raises `Interrupted` wherever the program just is, and remembers it."""

    number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise Interrupted(number)


def raise_if_signaled() -> None:
    """Raise `Interrupted` once more where a library swallowed it, as C code may."""
    for number in SIGNALS.values():
        handler = signal.getsignal(number)
        if isinstance(handler, _Interrupting) and handler.number is not None:
            raise Interrupted(handler.number)


def heeded_signals() -> list[int]:
    """Return the signals that ask to stop: all of `SIGNALS`, but for a hang-up that nohup wants to be ignored."""
    hang_up = SIGNALS.get("SIGHUP")
    return [
        number for number in SIGNALS.values() if number != hang_up or signal.getsignal(number) is not signal.SIG_IGN
    ]


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Turn signals that ask to stop into `Interrupted`, so that everything is cleaned up on the way out."""

    previous = {}
    for number in heeded_signals():
        with contextlib.suppress(ValueError):  # not in the main thread
            previous[number] = signal.signal(number, _Interrupting())
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def write_line(stream: Any, text: str) -> None:
    """Write a line; a stream that is closed or cannot be written is let be, but for stdout, which carries results."""
    if stream is None:
        return
    try:
        stream.write(text + "\n")
        stream.flush()
    except (OSError, ValueError):
        if stream is sys.stdout:
            raise


def one_line(text: str) -> str:
    """Return a text with control characters escaped, so that a file name cannot break or color the line."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogateescape").decode("ascii")
        if not "\udc80" <= character <= "\udcff"
        else f"\\x{ord(character) - 0xDC00:02x}"
        for character in text
    )


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table with aligned columns; columns of numbers are aligned to the right."""
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(header, *cells, strict=True)]
    numeric = [bool(cells) and all(_is_number(row[number]) for row in cells) for number in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return [line(header), "  ".join("-" * width for width in widths), *(line(row) for row in cells)]


def _is_number(text: str) -> bool:
    return text.strip("-+.%0123456789e ") in ("", "nan", "inf")


def finite(content: Any) -> Any:
    """Return plain data in which nan and infinity, which JSON lacks, are null."""
    if isinstance(content, float):
        return content if content == content and abs(content) != float("inf") else None
    if isinstance(content, dict):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content


def readable_seconds(seconds: float) -> str:
    """Return a duration as a person says it: ``40 s``, ``2 min 30 s``, ``45 min``, ``3 h 5 min``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"

"""A bar with the time left, on a terminal only."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from unetcli.cli.console import Console, one_line, raise_if_signaled

BAR_WIDTH = 12
SLOWEST = 3600.0  # seconds between two steps, after which the time left is no more told
WIDEST = 200  # characters of the line, whatever COLUMNS says: it is filled with spaces


@contextlib.contextmanager
def progress_bar(shown: Console, what: str, *, timed: bool = True) -> Iterator[Callable[[float, str], None]]:
    """Yield a function that moves a bar to a share (0 to 1) of the work, with a word beside it.

    Nothing is drawn with ``--quiet`` or where stderr is no terminal: logs get plain lines from elsewhere. A signal to
    stop that was not heeded yet is, when the bar moves.

    Parameters
    ----------
    timed : whether the time left is shown; otherwise the word says it.
    """
    if shown.quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda share, label: raise_if_signaled()
        return
    from rich.console import Console as RichConsole
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    time = (TimeRemainingColumn(),) if timed else ()
    word = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True))  # cut where the line ends
    columns = (BarColumn(BAR_WIDTH), TaskProgressColumn(), *time, word)
    terminal = RichConsole(stderr=True, soft_wrap=True)  # what is said meanwhile keeps its lines
    terminal.width = min(terminal.width, WIDEST)
    bar = Progress(*columns, console=terminal, transient=True, expand=True, speed_estimate_period=SLOWEST)
    with bar:
        task = bar.add_task(what, total=1.0)

        def move(share: float, label: str) -> None:
            raise_if_signaled()
            bar.update(task, completed=share, description=escape(one_line(label)))

        yield move

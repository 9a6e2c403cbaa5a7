"""The run folder beside the model: its options, its history, a preview; one training at a time owns it."""

import csv
import errno
import io
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unetcli.errors import OutputError
from unetcli.images.atomic import atomic_path, is_alive
from unetcli.training.records import EpochRecord

BEST, STATE, PREVIOUS = "best.safetensors", "state.safetensors", "state.previous.safetensors"
CONFIG, PAGE, HISTORY = "config.json", "report.html", ("history.csv", "history.jsonl")
_OWN_LOCK = ".lock.tmp-"
_TRIES = 10  # to take a lock that others take and let go at the same time


class RunFolder:
    """The files of one training.

    Parameters
    ----------
    path : the folder, ``unet.run`` beside ``unet.safetensors``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Own the folder, created where it is absent, until the block ends.

        Raises
        ------
        OutputError : another training that is still alive owns it, or it cannot be made.
        """
        holder = self.path / "lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take(holder)
        except OSError as error:
            raise OutputError(
                f"cannot be made: {error.strerror}", path=self.path, hint="name another place with -o"
            ) from None
        try:
            yield
        finally:
            (holder / "owner.json").unlink(missing_ok=True)
            holder.rmdir()

    def _take(self, holder: Path) -> None:
        """Put a folder that names its owner in place of the lock, which succeeds for one process only."""
        host = socket.gethostname()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        owner = {"pid": os.getpid(), "host": host, "since": since, "began": _began(os.getpid())}
        for left in self.path.glob(f"{_OWN_LOCK}{host}-*"):  # by a process that was killed just then
            if not is_alive(int(left.name.rpartition("-")[2])):
                shutil.rmtree(left, ignore_errors=True)
        own = self.path / f"{_OWN_LOCK}{host}-{os.getpid()}"
        own.mkdir(exist_ok=True)
        (own / "owner.json").write_text(json.dumps(owner))
        other: dict[str, Any] = {}
        for _ in range(_TRIES):
            if _renamed(own, holder):
                return
            other = _owner(holder / "owner.json")
            if other and other.get("host") == host and _is_gone(other):
                stale = self.path / f"{_OWN_LOCK}{host}-stale-{os.getpid()}"
                if _renamed(holder, stale):
                    shutil.rmtree(stale, ignore_errors=True)
            elif other:
                break
        shutil.rmtree(own)
        who = f"pid {other.get('pid', '?')} on host {other.get('host', '?')} since {other.get('since', '?')}"
        raise OutputError(
            f"is in use by {who}",
            path=self.path,
            hint=f"wait, name another with -o, or remove {holder} if it is stale",
        )

    def clear(self) -> None:
        """Remove the files of an earlier training, and no others."""
        for name in (BEST, STATE, PREVIOUS, CONFIG, PAGE, *HISTORY):
            (self.path / name).unlink(missing_ok=True)

    def keep(self, model: Path) -> None:
        """Keep the best model under a second name, so that it survives its own."""
        self._link(model, self.path / BEST)

    def give_back(self, model: Path) -> bool:
        """Put the best model where it is gone, and return whether there was one."""
        if not (self.path / BEST).exists():
            return False
        self._link(self.path / BEST, model)
        return True

    def _link(self, source: Path, target: Path) -> None:
        with atomic_path(target) as temporary:
            temporary.unlink()
            try:
                temporary.hardlink_to(source)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, temporary)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the options and what was understood of the data as ``config.json``."""
        with atomic_path(self.path / CONFIG) as temporary:
            temporary.write_text(json.dumps(config, indent=2, default=str) + "\n")

    def write_page(self, page: str) -> None:
        """Write ``report.html``."""
        with atomic_path(self.path / PAGE) as temporary:
            temporary.write_text(page, encoding="utf-8")

    def write_history(self, history: Sequence[EpochRecord]) -> None:
        """Write ``history.csv`` and ``history.jsonl``, a line per epoch with the same columns in both.

        What is not a finite number is null in JSON.
        """
        text = io.StringIO()
        rows = [_flat(record) for record in history]
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        lines = [json.dumps({name: _finite(value) for name, value in row.items()}) + "\n" for row in rows]
        for name, content in zip(HISTORY, (text.getvalue(), "".join(lines)), strict=True):
            with atomic_path(self.path / name) as temporary:
                temporary.write_text(content)


def _flat(record: EpochRecord) -> dict[str, Any]:
    """Return the columns of an epoch, numbers with six digits."""
    row = asdict(record)
    for number, dice in enumerate(row.pop("dice_per_class"), start=1):
        row[f"dice_class_{number}"] = dice
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the process that took a lock runs no more: its number may have passed to another, even to this one."""
    process = int(owner["pid"])
    return not is_alive(process) or owner.get("began") not in (None, _began(process))


def _began(process: int) -> str | None:
    """Return when a process began, in ticks since the machine did; None where the system does not tell."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _owner(path: Path) -> dict[str, Any]:
    """Return who holds a lock; nothing where that cannot be read, as after a crash in between."""
    try:
        owner: dict[str, Any] = json.loads(path.read_text())
        return owner if isinstance(owner["pid"], int) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _renamed(folder: Path, target: Path) -> bool:
    """Rename a folder, and return whether that was done: not where files are in the way or another was quicker."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT, errno.EACCES):
            raise
        return False
    return True

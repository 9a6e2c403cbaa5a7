"""Where the results of a command go: checked before any work."""

from collections.abc import Iterable
from pathlib import Path

from unetcli.errors import UsageError


def check_document(target: str | None) -> None:
    """Raise unless the JSON document may be written to its place; it replaces only documents of this program.

    So it never takes the place of an image or a model, even where the run fails before these are known.

    Raises
    ------
    UsageError : another file is there.
    OutputError : the place cannot be written.
    """
    if target in (None, "-"):
        return
    from unetcli.images.atomic import check_writable

    path = Path(str(target))
    check_writable(path)
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            ours = b'"schema"' in file.read(100)
        if not ours:
            raise UsageError("exists and is no document of this program", path=path, hint="--json takes another name")


def check_distinct(outputs: Iterable[Path], document: str | None) -> set[Path]:
    """Return the places of all results, the JSON document among them, of which no two may be one file.

    Raises
    ------
    UsageError : two are; names it.
    """
    from unetcli.inference.records import place_of

    taken: set[Path] = set()
    for path in [*outputs, *([] if document in (None, "-") else [Path(str(document))])]:
        place = place_of(path)
        if place in taken:
            raise UsageError("two results would be written to it", path=path, hint="give each a name of its own")
        taken.add(place)
    return taken

"""Options that several commands share, and how their values are read."""

import re
from typing import Annotated

import typer

from unetcli.errors import UsageError

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps; auto is CUDA where it works.")]
Precision = Annotated[
    str, typer.Option("--precision", help="auto, fp32, bf16 or fp16; auto is bf16 where the hardware has it.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Of every random draw.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Data loader processes.  [default: from the cores]")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Compute threads.  [default: the cores this process may use]")
]
Pages = Annotated[str | None, typer.Option("--pages", help="Pages of a stack, A-B or A, from 0, both ends included.")]
Axes = Annotated[
    str | None, typer.Option("--axes", help="Axes of the images, such as ZYX or YXC, instead of what the file says.")
]
Ignore = Annotated[
    str | None,
    typer.Option(
        "--ignore",
        metavar="VALUE",
        help="Mask value that is left out of everything, such as 255 or '#ff0000'.",
    ),
]
JsonFile = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write one JSON document; - is stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show more.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Find, read, check and report everything; write nothing.")]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Return the seconds of ``90s``, ``20m``, ``1.5h`` or ``1h30m``; a bare number is seconds.

    Raises
    ------
    UsageError : anything else, or nothing left of it.
    """
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd]?)+", text):
        raise UsageError(f"{text!r} is no duration", hint="write 90s, 20m or 2h")
    seconds = sum(float(number) * _SECONDS[unit or "s"] for number, unit in re.findall(r"([\d.]+)([smhd]?)", text))
    if seconds <= 0:
        raise UsageError(f"{text!r} leaves no time", hint="write 90s, 20m or 2h")
    return seconds


def parse_pages(text: str | None) -> range | None:
    """Return the pages of ``A-B`` or ``A``, both ends included.

    Raises
    ------
    UsageError : anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if not match or int(match[2] or match[1]) < int(match[1]):
        raise UsageError(f"--pages {text} is no range of pages", hint="write --pages 20-23, counted from 0")
    return range(int(match[1]), int(match[2] or match[1]) + 1)

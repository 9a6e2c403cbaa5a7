"""The command line: three commands that parse, call the wings below, and show what they return.

Only this wing prints and decides exit codes. torch and the other large libraries are imported by the commands when
they need them, never for ``--help``, ``--version`` or a usage error.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unetcli import __version__
from unetcli.cli.console import console, guarded
from unetcli.cli.evaluate import EPILOG, evaluate
from unetcli.cli.infer import infer
from unetcli.cli.train import train
from unetcli.errors import UsageError

app = typer.Typer(
    name="unet",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="unet train ./cells --epochs 50; unet infer scan.tif -o mask.tif; unet evaluate masks/ truth/",
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"unet {__version__}")
        raise typer.Exit


@app.callback()
def unet(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Segment microscopy and medical images with the U-Net, learning from a few annotated ones."""


app.command()(train)
app.command()(infer)
app.command(epilog=EPILOG)(evaluate)


def run(arguments: Sequence[str]) -> int:
    """Run the program with these arguments and return its exit code."""
    return guarded(lambda: _call(list(arguments) or ["--help"]))


def _call(arguments: list[str]) -> Any:
    try:
        Path.cwd()
    except FileNotFoundError:  # libraries need it, even where all paths are absolute
        raise UsageError("the current folder was removed", hint="cd to one that exists") from None
    try:
        return typer.main.get_command(app).main(
            args=arguments,
            prog_name="unet",
            standalone_mode=False,
            obj=shlex.join(["unet", *arguments]),  # what was typed, for those who write it down
        )
    except Exception as error:
        if not hasattr(error, "format_message"):  # no usage error of typer's
            raise
        with console(arguments[0], json_target=_document_of(arguments)):
            raise UsageError(error.format_message(), hint="see 'unet --help' or 'unet COMMAND --help'") from None


def _document_of(arguments: Sequence[str]) -> str | None:
    """Return where arguments that could not be parsed want the JSON document."""
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        if word == "--json" or word.startswith("--json="):
            return following if word == "--json" else word.removeprefix("--json=")
    return None

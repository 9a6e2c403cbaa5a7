"""What ``unet evaluate`` shows and writes, and what it must not write over."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unetcli.cli.console import Console, one_line
from unetcli.dataset.names import split_extension
from unetcli.errors import UnetError, UsageError

if TYPE_CHECKING:
    from unetcli.evaluation.evaluate import Limit, PageJob
    from unetcli.evaluation.inputs import Inputs
    from unetcli.evaluation.records import Evaluation


def protect_inputs(
    inputs: Sequence[Path], outputs: dict[str, Path | None], json_file: str | None, *, dry_run: bool = False
) -> None:
    """Raise if an output would be written over an input or over another output, or cannot be written.

    Parameters
    ----------
    dry_run : whether to leave folders that are absent, but for that of the document.

    Raises
    ------
    InputError : an input must not be looked at.
    UsageError : two paths are one, or pictures would come to lie among the inputs.
    OutputError : a place cannot be written.
    """
    from unetcli.images import check_writable
    from unetcli.images.files import is_there

    files = {option: path for option, path in outputs.items() if path is not None and option != "--overlays"}
    if json_file not in (None, "-"):
        files["--json"] = Path(str(json_file))
    folders = [path.resolve() for path in inputs if is_there(path) and path.is_dir()]
    taken = {path.resolve(): "an input" for path in inputs}
    for option, path in files.items():
        place = path.resolve()
        read = split_extension(place.name)[1] or place.name == "dataset.json"
        if read and place.exists() and any(folder in place.parents for folder in folders):
            taken[place] = "an input"
        if place in taken:
            raise UsageError(f"{option} would overwrite {taken[place]}", path=path, hint="name another file")
        taken[place] = f"the file of {option}"
        check_writable(path, dry_run=dry_run and option != "--json")
    overlays = outputs["--overlays"]
    if overlays is not None:
        place = overlays.resolve()
        if any(folder in (place, *place.parents) for folder in folders):
            raise UsageError("--overlays would mix pictures with the inputs", path=overlays, hint="name another folder")
        check_writable(overlays / "overlay.png", dry_run=dry_run)


def protect_files(named: Sequence[Path], inputs: "Inputs", overlays: Path | None) -> None:
    """Raise if the picture of a page would be written over a file that was named.

    Raises
    ------
    UsageError : names it.
    """
    from unetcli.evaluation.outputs import overlay_paths

    files = {path.resolve() for path in named}
    for path in [] if overlays is None else overlay_paths(overlays, inputs.jobs):
        if path.resolve() in files:
            raise UsageError("is an input and would be overwritten", path=path, hint="--overlays takes another folder")


def show(shown: Console, result: "Evaluation", *, said: Sequence[str]) -> None:
    """Write the tables: rows, summary, comparison, and the worst cases; notes that were not said yet before them."""
    from unetcli.evaluation.outputs import comparison_rows, number, row_cells, summary_rows
    from unetcli.evaluation.records import leading_metric, worst_cases

    for note in result.notes:
        if note not in said:
            shown.say(note)
    if not shown.prints_results:
        return
    names = [metric.name for metric in result.metrics]
    shown.table(["name", "page", "class", *names], list(row_cells(result)), result=True)
    shown.result("")
    header = ["metric", "class", "mean", "SD", "median", "n", "undefined", "95 % interval", "pooled"]
    shown.table(header, list(summary_rows(result)), result=True)
    if any(metric.unit for metric in result.metrics):
        shown.result(f"distances in {result.unit}")
    for interval in dict.fromkeys(entry.interval for c in result.summary.values() for entry in c.values()):
        shown.result(f"interval: {interval}")
    if result.comparison:
        shown.result("")
        shown.result(f"minus {one_line(str(result.other))}, paired:")
        columns = ["metric", "class", "difference", "n", "undefined", "95 % interval", "Wilcoxon p"]
        shown.table(columns, list(comparison_rows(result)), result=True)
    if len(result.cases) > 1:
        worst = ", ".join(f"{one_line(name)} ({number(value)})" for name, value in worst_cases(result))
        shown.result(f"worst by {leading_metric(result.metrics).name}: {worst or 'no case is defined'}")


def write_outputs(
    shown: Console,
    result: "Evaluation",
    jobs: "Sequence[PageJob]",
    outputs: dict[str, Path | None],
    title: str,
    *,
    skip_existing: bool,
) -> None:
    """Write the files that were asked for."""
    from unetcli.evaluation.outputs import build_report, csv_text, overlay_paths, write_overlay, write_text

    def wanted(path: Path | None) -> bool:
        return path is not None and not (skip_existing and path.exists())

    csv_file, report, overlays = (outputs[option] for option in ("--csv", "--report", "--overlays"))
    if csv_file is not None and wanted(csv_file):
        write_text(csv_file, csv_text(result))
    if overlays is not None:
        for path, job in zip(overlay_paths(overlays, jobs), jobs, strict=True):
            if wanted(path):
                write_overlay(path, job, result.task)
        shown.say_more(f"{len(jobs)} overlays in {overlays}")
    if report is not None and wanted(report):
        write_text(report, build_report(result, jobs, title))


def missed_limits(limits: "Sequence[Limit]", result: "Evaluation") -> list[str]:
    """Return what to say about each mean that misses its limit."""
    from unetcli.evaluation.evaluate import missed

    return [failure for limit in limits if (failure := missed(limit, result)) is not None]


def failure_keys(failure: UnetError | None) -> dict[str, Any]:
    """Return what the document of a run says about its failure."""
    return {} if failure is None else {"error": str(failure), "hint": failure.hint, "exit": failure.exit_code}

"""``unet evaluate PREDICTION TRUTH``: score masks, with statistics."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unetcli.cli import options
from unetcli.cli.console import Console, console
from unetcli.cli.progress import progress_bar
from unetcli.cli.scores import failure_keys, missed_limits, protect_files, protect_inputs, show, write_outputs
from unetcli.errors import InputError, LimitError, UsageError
from unetcli.metrics.registry import DEFAULTS, METRICS

if TYPE_CHECKING:
    from unetcli.evaluation.evaluate import PageJob, Rules
    from unetcli.evaluation.inputs import Inputs
    from unetcli.evaluation.records import Evaluation

Task = Literal["auto", "semantic", "instances", "membranes"]
Cases = Literal["files", "pages"]
Unit = Literal["pixels", "image"]

EPILOG = "\n\n".join(
    (
        "Metrics (name@VALUE sets the parameter, as in ap@0.75 or nsd@2):",
        *(
            f"{metric.name}{'' if metric.default is None else f'@{metric.default:g}'}: {metric.definition} "
            f"[{metric.source}]"
            for metric in METRICS.values()
        ),
        "Without --metrics: " + "; ".join(f"{task}: {', '.join(names)}" for task, names in DEFAULTS.items()) + ".",
        "Both masks empty: undefined, left out of means and counted. Only one empty: 0, or the image diagonal.",
    )
)


def evaluate(
    prediction: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTION", readable=False, help="A file or folder; with -m the data, as for training."
        ),
    ],
    truth: Annotated[
        Path | None, typer.Argument(metavar="TRUTH", readable=False, help="A file, a folder of masks, or a data set.")
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option("-m", "--model", readable=False, help="Predict DATA first; several are averaged."),
    ] = None,
    task: Annotated[Task, typer.Option("--task", help="What the masks are; auto decides by the truth.")] = "auto",
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Names: dice,nsd@2.  [default: by kind of data]")
    ] = None,
    cases: Annotated[Cases, typer.Option("--cases", help="What counts as one in the statistics.")] = "files",
    count_empty: Annotated[
        bool, typer.Option("--count-empty", help="Count images with nothing in truth and prediction as perfect.")
    ] = False,
    unit: Annotated[
        Unit, typer.Option("--unit", help="Of distances: pixels, or as the image's pixel size.")
    ] = "pixels",
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="OTHER_PREDICTION", help="Give the paired difference to this.")
    ] = None,
    fail_under: Annotated[
        list[str] | None, typer.Option("--fail-under", metavar="NAME=V", help="Exit 9 if a score's mean is lower.")
    ] = None,
    fail_over: Annotated[
        list[str] | None, typer.Option("--fail-over", metavar="NAME=V", help="Exit 9 if an error's mean is higher.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a row per page, class and metric.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a report with plots and pictures.")
    ] = None,
    overlays: Annotated[
        Path | None, typer.Option("--overlays", metavar="FOLDER", help="Write a picture of the errors of each page.")
    ] = None,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave outputs that exist.")] = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    seed: options.Seed = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Threads that read and score.  [default: from the cores]")
    ] = None,
    threads: options.Threads = None,
    pages: options.Pages = None,
    axes: options.Axes = None,
    ignore: options.Ignore = None,
    json_file: options.JsonFile = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Score predicted masks against true ones.

    Example: unet evaluate masks/ truth/
    """
    with console("evaluate", quiet=quiet, verbose=verbose, debug=debug, json_target=json_file) as shown:
        page_range = options.parse_pages(pages)
        check_arguments(truth, models, axes)
        from unetcli.evaluation.evaluate import Rules, check_limits, choose_metrics, parse_limit, with_comparison

        if metrics is not None:
            choose_metrics(metrics, "binary")  # a wrong name is found before any file is read
        limits = [parse_limit(text, lower=True) for text in fail_under or ()]
        limits += [parse_limit(text, lower=False) for text in fail_over or ()]
        outputs = {"--csv": csv_file, "--report": report, "--overlays": overlays}
        named = [path for path in (prediction, truth, compare, *(models or ())) if path is not None]
        protect_inputs(named, outputs, json_file, dry_run=dry_run)
        settings: dict[str, Any] = {"task": task, "pages": page_range, "ignore": ignore, "unit": unit}
        predictions = tempfile.TemporaryDirectory(prefix="unet-") if models else contextlib.nullcontext("")
        with predictions as folder:
            if models:
                inputs = predicted(
                    shown, [path for path in (prediction, truth) if path is not None], models, Path(folder),
                    device=device, precision=precision, threads=threads, axes=axes, **settings,
                )  # fmt: skip
            else:
                assert truth is not None
                inputs = given(prediction, truth, threads=threads, **settings)
            describe_inputs(shown, inputs)
            check_limits(limits, inputs.classes)
            protect_files(named, inputs, overlays)
            others = None
            if compare is not None:
                others = given(compare, truth or prediction, threads=threads, like=inputs, **settings)
                same_pages(inputs, others, compare)
                read_as = [f"{compare}: {note}" for note in others.notes]
                for note in read_as:
                    shown.say(note)
                inputs = replace(inputs, notes=(*inputs.notes, *read_as))
            chosen = choose_metrics(metrics, inputs.task)
            limited = [limit.metric for limit in limits if limit.metric.name not in {m.name for m in chosen}]
            rules = Rules(
                task=inputs.task,
                classes=inputs.classes,
                metrics=(*chosen, *{metric.name: metric for metric in limited}.values()),
                pages_are_cases=cases == "pages",
                count_empty=count_empty,
                unit=inputs.unit,
                seed=seed,
            )
            if dry_run:
                shown.write_json({"task": inputs.task, "cases": len(inputs.cases), "pages": len(inputs.jobs)})
                return
            count = workers_for(workers)
            result = run(shown, inputs.jobs, rules, inputs.notes, count)
            if others is not None and compare is not None:
                other = run(shown, others.jobs, rules, others.notes, count)
                result = with_comparison(result, other, compare, seed=seed)
            missed = missed_limits(limits, result)
            show(shown, result, said=inputs.notes)
            title = (
                f"{prediction} against {truth}" if truth is not None and not models else f"Prediction of {prediction}"
            )
            write_outputs(shown, result, inputs.jobs, outputs, title, skip_existing=skip_existing)
            failure = LimitError("; ".join(missed), hint="the table shows the values") if missed else None
            if not (skip_existing and json_file not in (None, "-") and Path(str(json_file)).exists()):
                shown.write_json({**result.to_json(), **failure_keys(failure)})
        if failure is not None:
            raise failure


def given(prediction: Path, truth: Path, *, threads: int | None, **settings: Any) -> "Inputs":
    """Return predictions that are there already, with their truths."""
    import cv2

    from unetcli.evaluation.inputs import read_inputs
    from unetcli.images.threads import limit_threads

    cv2.setNumThreads(limit_threads(threads))
    return read_inputs(prediction, truth, **settings)


def predicted(
    shown: Console, data: Sequence[Path], models: list[Path], folder: Path, *, device: str, precision: str,
    threads: int | None, **settings: Any,
) -> "Inputs":  # fmt: skip
    """Return a data set whose images are predicted while they are scored."""
    from unetcli.evaluation.prediction import predict_inputs
    from unetcli.inference.infer import Segmenter
    from unetcli.models.device import choose_device, set_threads

    set_threads(threads)
    chosen = choose_device(device, precision)
    segmenter = Segmenter(models, chosen)
    shown.say(f"device: {chosen.name} ({chosen.reason})")
    with progress_bar(shown, "reading") as bar:
        return predict_inputs(data, segmenter, folder, progress=lambda done, total: bar(done / total, ""), **settings)


def same_pages(inputs: "Inputs", others: "Inputs", compare: Path) -> None:
    """Raise unless two predictions are of the same pages.

    Raises
    ------
    InputError : says how many each has.
    """
    if [(job.case, job.page) for job in inputs.jobs] != [(job.case, job.page) for job in others.jobs]:
        raise InputError(
            f"has {len(others.jobs)} pages, the first prediction {len(inputs.jobs)}, or other names",
            path=compare,
            hint="compare predictions of the same images",
        )


def workers_for(asked: int | None) -> int:
    """Return the number of threads that score: as many as may compute unless asked."""
    from unetcli.images.threads import compute_threads

    return compute_threads() if asked is None else max(1, asked)


def check_arguments(truth: Path | None, models: list[Path] | None, axes: str | None) -> None:
    """Raise where the arguments mean nothing together.

    Raises
    ------
    UsageError : says what is missing or too much.
    """
    if truth is None and not models:
        raise UsageError("no truth named", hint="unet evaluate PREDICTION TRUTH, or unet evaluate DATA -m MODEL")
    if axes is not None and not models:
        raise UsageError(
            "--axes is for the images that a model predicts", hint="unet evaluate DATA -m MODEL --axes ZYX"
        )


def describe_inputs(shown: Console, inputs: "Inputs") -> None:
    """Say what was found and how it is read."""
    cases, pages = len(inputs.cases), len(inputs.jobs)
    count = f"{cases} case{'s' * (cases > 1)}, {pages} page{'s' * (pages > 1)}"
    shown.say(f"{count}: {inputs.task} ({', '.join(inputs.classes)})")
    for note in inputs.notes:
        shown.say(note)


def run(shown: Console, jobs: "Sequence[PageJob]", rules: "Rules", notes: Sequence[str], workers: int) -> "Evaluation":
    """Return the evaluation of all pages, with a bar meanwhile."""
    from unetcli.evaluation.evaluate import PageScored
    from unetcli.evaluation.evaluate import evaluate as score

    with progress_bar(shown, "pages") as bar:
        for event in score(jobs, rules, notes, workers=workers):
            if isinstance(event, PageScored):
                bar(event.done / event.total, event.name)
            else:
                return event
    raise AssertionError("the last event is the evaluation")

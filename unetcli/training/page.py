"""The page of a training: its curves, its pictures, its data and its decisions, as one self-contained HTML file."""

import time
from collections.abc import Callable, Sequence
from itertools import takewhile

from torch import nn

from unetcli import report
from unetcli.dataset.survey import Survey
from unetcli.dataset.table import class_rows, summary_rows
from unetcli.training.config import TrainConfig
from unetcli.training.environment import hardware_rows, version_rows
from unetcli.training.gallery import COLORS, picture_of
from unetcli.training.loop import Trainer
from unetcli.training.plan import Plan
from unetcli.training.preview import preview
from unetcli.training.records import EpochRecord
from unetcli.training.runfolder import RunFolder
from unetcli.training.validation import Look, validate

SHARE_OF_TIME = 0.01  # that writing the page may take
RELOAD_SECONDS = 30
PREVIEWED = 3  # patches


class TrainingPage:
    """The page, written anew as the training goes on; pictures are drawn only when they change.

    Parameters
    ----------
    folder : where ``report.html`` is written.
    clock : returns seconds; monotonic.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: TrainConfig,
        survey: Survey,
        decided: Plan,
        trainer: Trainer,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.config = config
        self.decided = decided
        self.trainer = trainer
        self.clock = clock
        self.not_before = 0.0  # by the clock
        self.looks: tuple[Look, ...] = ()
        self.epoch_of_looks = 0
        self.gallery = ""
        self.epoch_of_gallery = 0
        self.lasting = [
            _preview_section(survey, decided, trainer),
            _data_section(survey),
            _plan_section(config, decided),
        ]
        self.machine = [*hardware_rows(decided.device), *version_rows()]

    def update(self, sha256: str) -> None:
        """Write the page, unless it was written so shortly before that this would slow the training down.

        Parameters
        ----------
        sha256 : of the weights in the model file.

        Raises
        ------
        OutputError : it cannot be written.
        """
        self._look()
        began = self.clock()
        if began >= self.not_before:
            self._write(sha256, running=True)
            now = self.clock()
            self.not_before = now + (now - began) / SHARE_OF_TIME

    def finish(self, sha256: str) -> None:
        """Write the page for the last time.

        Raises
        ------
        OutputError : it cannot be written.
        """
        self._write(sha256, running=False)

    def look_back(self, network: nn.Module) -> None:
        """Keep what the best epoch of a training that is continued predicts.

        Parameters
        ----------
        network : with the weights of that epoch, on the device.
        """
        trainer = self.trainer
        assert trainer.best is not None
        score = validate(
            network.eval(),
            takewhile(lambda _: not trainer.stop(), trainer.held_out),
            task=trainer.dataset.task,
            classes=trainer.classes,
            device=trainer.device,
            size=trainer.tile,
        )
        self.looks, self.epoch_of_looks = score.worst, trainer.best.epoch

    def _look(self) -> None:
        """Keep what the best epoch predicted."""
        history, score = self.trainer.history, self.trainer.score
        if score is not None and history[-1].best:
            self.looks, self.epoch_of_looks = score.worst, history[-1].epoch

    def _write(self, sha256: str, *, running: bool) -> None:
        history, best = self.trainer.history, self.trainer.best
        parts = [
            report.section("Course", _course(history, self.decided.classes[1:], best)),
            self._predictions(),
            *self.lasting,
            self._run_section(sha256),
        ]
        title = f"Training of {self.config.output.name}"
        reload_seconds = RELOAD_SECONDS if running else None
        self.folder.write_page(
            report.document(title, self._lead(running=running), parts, reload_seconds=reload_seconds)
        )

    def _lead(self, *, running: bool) -> str:
        done, of = len(self.trainer.history), f" of {self.decided.epochs}" if self.decided.epochs else ""
        best = self.trainer.best
        found = f"best: epoch {best.epoch}, Dice {best.dice:.4f} on validation" if best else "none validated yet"
        going = f"; it goes on, and this page loads itself again every {RELOAD_SECONDS} s" if running else ""
        return f"{done}{of} epochs; {found}{going}"

    def _predictions(self) -> str:
        if self.looks and self.epoch_of_gallery != self.epoch_of_looks:
            images = self.trainer.held_out
            self.gallery = report.gallery([picture_of(look, images[look.index]) for look in self.looks])
            self.epoch_of_gallery = self.epoch_of_looks
        if not self.gallery:
            return ""
        shown, of = len(self.looks), len(self.trainer.held_out)
        which = "worst first" if shown == of else f"the {shown} worst of {of}, worst first"
        title = f"Held-out images as epoch {self.epoch_of_looks} sees them, {which}"
        return report.section(title, [report.key(COLORS), self.gallery])

    def _run_section(self, sha256: str) -> str:
        rows = [
            ("written", time.strftime("%Y-%m-%d %H:%M:%S")),
            ("seed", str(self.config.seed)),
            ("weights, SHA-256", sha256 or "none yet"),
            *self.machine,
        ]
        commands = [report.command(text) for text in self.config.commands]
        return report.section("Run", [*commands, report.table(["", ""], rows)])


def _course(history: Sequence[EpochRecord], classes: Sequence[str], best: EpochRecord | None) -> list[str]:
    epochs = [record.epoch for record in history]
    dice = {name: [record.dice_per_class[number] for record in history] for number, name in enumerate(classes)}
    if len(classes) > 1:
        dice = {"mean": [record.dice for record in history], **dice}
    curves = {
        "loss in training": {"training": [record.train_loss for record in history]},
        "cross-entropy on validation": {"validation": [record.validation_loss for record in history]},
        "Dice on validation": dice,
        "learning rate": {"learning rate": [record.learning_rate for record in history]},
    }
    mark = best.epoch if best else None
    plots = "".join(
        report.lines(
            title, {name: list(zip(epochs, values, strict=True)) for name, values in series.items()}, "epoch", mark
        )
        for title, series in curves.items()
    )
    said = "The dashed line is the best epoch, whose weights the model file holds." if best else "No epoch is done yet."
    return [f'<div class="plots">{plots}</div>', report.paragraph(said)]


def _preview_section(survey: Survey, decided: Plan, trainer: Trainer) -> str:
    drawn = preview(survey, decided, trainer.dataset, PREVIEWED)
    pictures = [report.Picture(row.name, row.caption, row.layers) for row in drawn.rows]
    text = f"Weights in the loss go from 0 (dark) to {drawn.largest_weight:.3g} (light)."
    return report.section("Patches as training sees them", [report.paragraph(text), report.strips(pictures)])


def _data_section(survey: Survey) -> str:
    classes = [(name, value, f"{share:.1%}") for name, value, share in class_rows(survey)]
    tables = [report.table(["", ""], summary_rows(survey)), report.table(["class", "mask value", "pixels"], classes)]
    return report.section("Data", [*tables, report.bullets(survey.notes) if survey.notes else ""])


def _plan_section(config: TrainConfig, decided: Plan) -> str:
    split, recipe, varied = decided.split, config.steps_recipe, config.augmentation
    arguments = ", ".join(f"{name} {value}" for name, value in decided.arguments.items())
    weights = ", ".join(f"{weight:.3g}" for weight in decided.class_weights)
    limits = [
        f"{decided.epochs} epochs" if decided.epochs else "",
        f"{decided.max_seconds:g} s" if decided.max_seconds else "",
        f"{config.patience} epochs without a better one" if config.patience else "",
    ]
    rows = [
        ("device", f"{decided.device.name}, {decided.device.precision} ({decided.device.reason})"),
        ("network", f"{decided.architecture}, {decided.parameters:,} parameters"),
        ("arguments", arguments),
        ("images", f"{len(split.training)} to learn from, {len(split.validation)} held out: {split.rule}"),
        ("patches", f"{decided.patch_size} -> {decided.output_size} pixels, {decided.batch_size} in a batch"),
        ("epoch", f"{decided.patches_per_epoch} patches"),
        ("ends after", " or ".join(limit for limit in limits if limit)),
        ("class balance", f"{config.class_balance}: {weights}"),
        ("border weight", f"{config.border_weight:g}, sigma {config.border_sigma:g} pixels"),
        ("recipe", config.recipe_line),
        ("weights", f"averaged with decay {recipe.averaging:g}" if recipe.averaging else "as they are"),
        ("gradients", f"clipped at {recipe.largest_gradient:g}" if recipe.largest_gradient else "as they are"),
        ("augmentation", ", ".join(f"{name} {value}" for name, value in vars(varied).items())),
    ]
    return report.section("Plan", [report.table(["", ""], rows)])

"""The page of a training: its curves, its data and its decisions, as one self-contained HTML file."""

from collections.abc import Sequence

from unetcli import report
from unetcli.dataset.survey import Survey
from unetcli.dataset.table import class_rows, summary_rows
from unetcli.training.plan import Plan
from unetcli.training.records import EpochRecord


def training_page(survey: Survey, decided: Plan, history: Sequence[EpochRecord], name: str) -> str:
    """Return the page of the training of the model `name`, as far as it has come."""
    best = max((record for record in history if record.best), key=lambda record: record.epoch, default=None)
    lead = f"{len(history)} epochs" + (f"; best: epoch {best.epoch}, Dice {best.dice:.4f}" if best else "")
    losses = {
        "training": [(record.epoch, record.train_loss) for record in history],
        "validation": [(record.epoch, record.validation_loss) for record in history],
    }
    dice = {
        label: [(record.epoch, record.dice_per_class[number]) for record in history]
        for number, label in enumerate(decided.classes[1:])
    }
    plan = [
        ("device", f"{decided.device.name}, {decided.device.precision} ({decided.device.reason})"),
        ("network", f"{decided.architecture}, {decided.parameters:,} parameters"),
        *((name, str(value)) for name, value in decided.arguments.items()),
        ("validation", decided.split.rule),
        ("patches", f"{decided.patch_size} -> {decided.output_size} pixels, {decided.batch_size} in a batch"),
        ("patches per epoch", str(decided.patches_per_epoch)),
    ]
    classes = [(label, value, f"{share:.1%}") for label, value, share in class_rows(survey)]
    parts = [
        report.section(
            "Course",
            [
                report.lines("cross-entropy: weighted in training, plain on validation", losses, "epoch"),
                report.lines("Dice on validation", dice, "epoch"),
            ],
        ),
        report.section("Plan", [report.table(["", ""], plan)]),
        report.section(
            "Data",
            [report.table(["", ""], summary_rows(survey)), report.table(["class", "mask value", "pixels"], classes)],
        ),
    ]
    return report.document(f"Training of {name}", lead, parts)

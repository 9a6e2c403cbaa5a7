"""What a person sees of a training while it goes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from unetcli.cli.console import Console, readable_seconds
from unetcli.cli.progress import progress_bar

if TYPE_CHECKING:
    from unetcli.training.plan import Plan
    from unetcli.training.records import EpochRecord, StepRecord
    from unetcli.training.train import Event, Trained


def follow(
    shown: Console,
    events: "Iterator[Event]",
    decided: "Plan",
    best: "EpochRecord | None" = None,
    *,
    processes: int = 1,
) -> "Trained":
    """Show a training as it goes: a bar on a terminal, a line per epoch everywhere; return its result.

    Parameters
    ----------
    best : the best epoch of a training that is continued.
    processes : how many train together, each with a batch of its own.
    """
    from unetcli.training.records import EpochRecord, StepRecord
    from unetcli.training.train import Trained

    left, speed = TimeLeft(), Speed(decided.batch_size * processes)
    of = f"/{decided.epochs}" if decided.epochs else ""
    with progress_bar(shown, "training", timed=False) as bar:
        for event in events:
            if isinstance(event, StepRecord):
                left.see(event)
                reached = f"  best Dice {best.dice:.3f}" if best else ""
                bar(
                    event.progress,  # what matters most stands first: a narrow terminal cuts the rest
                    f"{left.text}epoch {event.epoch}{of}  loss {event.loss:.3f}{reached}  "
                    f"{speed.after(event):.1f} patches/s  step {event.step}/{event.steps}",
                )
            elif isinstance(event, EpochRecord):
                best = event if event.best else best
                mark = " *" if event.best else f" (best {best.dice:.4f}, epoch {best.epoch})" if best else ""
                shown.say(
                    f"epoch {event.epoch}{of}  {readable_seconds(event.seconds)}  {left.text}"
                    f"loss {event.train_loss:.4f}  validation loss {event.validation_loss:.4f}  "
                    f"Dice {event.dice:.4f}{mark}  {event.patches_per_second:.1f} patches/s"
                )
    assert isinstance(event, Trained)
    return event


class TimeLeft:
    """How long a training will still take at the pace it has had since it was first looked at."""

    def __init__(self) -> None:
        self.first: StepRecord | None = None
        self.seconds: float | None = None

    def see(self, step: "StepRecord") -> None:
        """Take a step into account."""
        first = self.first = self.first or step
        gained = step.progress - first.progress
        self.seconds = (step.seconds - first.seconds) / gained * (1 - step.progress) if gained > 0 else None

    @property
    def text(self) -> str:
        """The time left as a person says it, with room after it; nothing where it is not known, or over."""
        return f"{readable_seconds(self.seconds)} left  " if self.seconds else ""


class Speed:
    """Patches per second, over the steps of an epoch so far.

    Parameters
    ----------
    batch_size : patches of a step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.first: StepRecord | None = None

    def after(self, step: "StepRecord") -> float:
        """Return the speed; 0 after the first step."""
        if self.first is None or self.first.epoch != step.epoch:
            self.first = step
        seconds = step.seconds - self.first.seconds
        return self.batch_size * (step.step - self.first.step) / seconds if seconds > 0 else 0.0

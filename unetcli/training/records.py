"""What a training says of its steps and epochs, and when it ends."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepRecord:
    """One step of the optimizer, for the progress display.

    Parameters
    ----------
    epoch, step : counted from 1; `steps` in an epoch.
    progress : of the whole training, 0 to 1.
    seconds : since the training began.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    progress: float
    seconds: float


@dataclass(frozen=True)
class EpochRecord:
    """One epoch and its validation; a line of the history.

    Parameters
    ----------
    dice : mean foreground Dice on validation; `dice_per_class` of each foreground class (nan: nowhere defined).
    foreground : share of the held-out pixels that are predicted as foreground.
    best : whether this is the best epoch so far.
    patches_per_second : training speed.
    """

    epoch: int
    seconds: float
    learning_rate: float
    train_loss: float
    validation_loss: float
    dice: float
    dice_per_class: tuple[float, ...]
    foreground: float
    best: bool
    patches_per_second: float


@dataclass(frozen=True)
class Limits:
    """When a training ends: whichever comes first.

    Parameters
    ----------
    epochs : None where the time alone decides.
    seconds : None where the epochs alone decide.
    patience : epochs without a better one, None for no early stopping.
    """

    epochs: int | None
    seconds: float | None
    patience: int | None

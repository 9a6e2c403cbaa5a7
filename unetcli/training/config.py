"""What a training is asked to do, and the recipes that fill in what is not said."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unetcli.dataset.augmentation import AugmentationSettings
from unetcli.dataset.weightmap import SMOOTHING
from unetcli.errors import UsageError
from unetcli.training.optimization import LEARNING_RATES, OPTIMIZERS, SCHEDULES

PAPER_PATCH = 572
RANGES = {"learning_rate": (1e-9, 1e9), "border_weight": (0, 1000), "border_sigma": (0.1, 100)}
EPOCHS = 100


@dataclass(frozen=True)
class Recipe:
    """How the weights are found.

    Parameters
    ----------
    optimizer, schedule : entries of their registries.
    learning_rate : at its highest.
    largest_gradient : norm to which gradients are clipped; 0 leaves them.
    averaging : decay of the moving average of the weights that validates and predicts; 0 takes the weights as they are.
    dropout : probability at the end of the contracting path.
    batch_pixels : pixels of output that a batch shows at least, from which the batch size follows; 0 means one patch.
    cuda_batch_pixels : the same on CUDA, which computes small batches hardly faster than large ones.
    smallest_share : share of the pixels up to which the class balance raises rarer classes: 1 makes all classes count
        alike (inverse frequency), 0 leaves their frequencies.
    dice_weight : of the soft Dice in the loss of instances, beside the weighted cross-entropy; 0 leaves it out. It
        gains Dice where there are border weights; masks of classes go without, as it sharpens probabilities.
    border_smoothing : in pixels, over which border weights between components spread to both sides; 0 leaves them on
        the background.
    """

    optimizer: str
    schedule: str
    learning_rate: float
    largest_gradient: float
    averaging: float
    dropout: float
    batch_pixels: int
    cuda_batch_pixels: int
    smallest_share: float
    dice_weight: float
    border_smoothing: float


RECIPES = {
    "default": Recipe(
        "muon", "cosine", LEARNING_RATES["muon"], 1.0, 0.99, 0.2, 196**2, 12 * 388**2, 0.1, 1.0, SMOOTHING
    ),
    # Section 3 says: SGD, momentum 0.99, a batch of one large tile, dropout, class balance. It leaves open the learning
    # rate, its schedule and the rate of dropout: the first two are chosen so that it converges, 0.5 is in the release.
    "paper": Recipe("sgd", "constant", LEARNING_RATES["sgd"], 0.0, 0.0, 0.5, 0, 0, 1.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class TrainConfig:
    """All options of a training; what is None follows from the data or the recipe.

    Lengths are in pixels, times in seconds.

    Parameters
    ----------
    resume : whether the run folder is continued.
    fold : which part of how many is held out, counted from 1.
    init : the model file whose weights, and whose network, the training starts from.
    freeze : parts of the network that keep their weights.
    patches_per_epoch : of a training that is continued.
    deterministic : whether CUDA repeats itself, too.
    commands : what was typed to begin the training, and then each time to continue it.
    """

    output: Path
    epochs: int | None = None
    max_seconds: float | None = None
    patience: int | None = None
    validation: str = "auto"
    architecture: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    patch_size: int | None = None
    batch_size: int | None = None
    patches_per_epoch: int | None = None
    recipe: str = "default"
    optimizer: str | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    border_weight: float = 10.0
    border_sigma: float = 5.0
    class_balance: str = "auto"
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    precision: str = "auto"
    overwrite: bool = False
    resume: bool = False
    fold: tuple[int, int] | None = None
    init: Path | None = None
    freeze: tuple[str, ...] = ()
    deterministic: bool = False
    commands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, registry in (
            ("recipe", self.recipe, RECIPES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value is not None and value not in registry:
                raise UsageError(f"unknown {name} {value!r}", hint=f"--{name} takes {', '.join(registry)}")
        for name, (smallest, largest) in RANGES.items():
            number = getattr(self, name)
            if number is not None and not smallest <= number <= largest:
                words, option = name.replace("_", " "), name.replace("_", "-")
                raise UsageError(
                    f"{words} {number:g} is out of range", hint=f"--{option} takes {smallest:g} to {largest:g}"
                )

    @property
    def steps_recipe(self) -> Recipe:
        """The recipe with what was asked for put in; another optimizer comes with its usual learning rate."""
        usual = {} if self.optimizer is None else {"learning_rate": LEARNING_RATES[self.optimizer]}
        asked: dict[str, Any] = {
            "optimizer": self.optimizer,
            "learning_rate": self.learning_rate,
            "schedule": self.schedule,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return replace(RECIPES[self.recipe], **(usual | given))

    @property
    def recipe_line(self) -> str:
        """The recipe in words."""
        taken = self.steps_recipe
        return f"{self.recipe}: {taken.optimizer}, learning rate {taken.learning_rate:g}, {taken.schedule}"

    @property
    def run_folder(self) -> Path:
        """The folder beside the model that keeps the history."""
        return self.output.with_suffix(".run")

    def for_fold(self, fold: int, folds: int) -> "TrainConfig":
        """Return the configuration that trains one fold, counted from 1, into files of its own."""
        return replace(self, fold=(fold, folds), output=self.output.with_suffix(f".fold{fold}{self.output.suffix}"))

    def continuing(self, chosen: dict[str, Any]) -> "TrainConfig":
        """Return the configuration with what was chosen when the training began."""
        kept = ("architecture", "arguments", "precision", "patch_size", "batch_size", "patches_per_epoch")
        return replace(self, **{name: chosen[name] for name in kept})

    @property
    def last_epoch(self) -> int | None:
        """Epochs to train; None where the time alone decides."""
        if self.epochs is not None:
            return self.epochs
        return EPOCHS if self.max_seconds is None else None

    def as_json(self) -> dict[str, Any]:
        """Return the options as plain data."""
        return {**asdict(self), "output": str(self.output), "init": str(self.init) if self.init else None}

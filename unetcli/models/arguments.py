"""The arguments of an architecture: a builder's signature says their names, defaults and bounds, and only it does.

A model file may come from a stranger, so its arguments are checked against the signature before anything is built.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from torch import nn

Builder = Callable[..., nn.Module]


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both included."""

    least: float
    most: float


Channels = Annotated[int, Between(1, 1024)]
Classes = Annotated[int, Between(1, 255)]
Features = Annotated[int, Between(1, 1024)]
Depth = Annotated[int, Between(1, 7)]
Dropout = Annotated[float, Between(0, 0.99)]
Temperature = Annotated[float, Between(0.001, 1000)]


@dataclass(frozen=True)
class Argument:
    """What one argument of a builder may be.

    Parameters
    ----------
    name : of the keyword.
    default : taken when it is not given; None where it must be given.
    kind : int, float or bool, or str for one of `choices`.
    bounds : of a number.
    choices : the strings allowed.
    """

    name: str
    default: Any
    kind: type
    bounds: Between | None = None
    choices: tuple[str, ...] = ()

    def accepts(self, value: object) -> bool:
        """Whether `value`, as JSON may hold it, is allowed."""
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if not isinstance(value, int if self.kind is int else int | float):
            return False
        return self.bounds is None or self.bounds.least <= value <= self.bounds.most  # false for NaN

    def __str__(self) -> str:
        """What is allowed, for a message: "a whole number from 1 to 7"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is bool:
            return "true or false"
        number = "a whole number" if self.kind is int else "a number"
        return number if self.bounds is None else f"{number} from {self.bounds.least} to {self.bounds.most}"


def arguments_of(build: Builder) -> dict[str, Argument]:
    """Return the arguments that a builder's signature declares, channels and classes first."""
    hints = get_type_hints(build, include_extras=True)
    parameters = inspect.signature(build).parameters.values()
    return {parameter.name: _argument(parameter, hints[parameter.name]) for parameter in parameters}


def problems_of(build: Builder, arguments: Mapping[str, object]) -> list[str]:
    """Return one sentence for each argument that is unknown, missing or out of bounds."""
    known = arguments_of(build)
    named = ", ".join(name for name in known if name not in ("channels", "classes")) or "none"
    problems = [f"there is no argument {name!r}; there are {named}" for name in arguments if name not in known]
    for name, argument in known.items():
        if name not in arguments:
            if argument.default is None:
                problems.append(f"{name} is missing")
        elif not argument.accepts(arguments[name]):
            problems.append(f"{name} must be {argument}, not {arguments[name]!r:.60}")
    return problems


def _argument(parameter: inspect.Parameter, hint: Any) -> Argument:
    default = None if parameter.default is parameter.empty else parameter.default
    if get_origin(hint) is Literal:
        return Argument(parameter.name, default, str, choices=get_args(hint))
    if get_origin(hint) is Annotated:
        kind, bounds = get_args(hint)
        return Argument(parameter.name, default, kind, bounds=bounds)
    assert hint in (bool, int, float), f"{parameter.name} needs an annotation that JSON values can be checked against"
    return Argument(parameter.name, default, hint)

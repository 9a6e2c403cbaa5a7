"""A builder's signature declares its arguments, and nothing beyond it is built."""

import json
import math
import time
from typing import Annotated, Literal

import pytest
from torch import nn

from unetcli.errors import UsageError
from unetcli.models import ARCHITECTURES, build_network, check_arguments, default_arguments
from unetcli.models.arguments import Argument, Between, arguments_of, problems_of


def example(
    channels: Annotated[int, Between(1, 4)],
    *,
    rate: Annotated[float, Between(0, 0.5)] = 0.25,
    kind: Literal["round", "square"] = "round",
    fast: bool = False,
    free: int = 3,
) -> nn.Module:
    raise AssertionError("nothing is built to check arguments")


def test_the_signature_is_what_is_declared():
    assert arguments_of(example) == {
        "channels": Argument("channels", None, int, bounds=Between(1, 4)),
        "rate": Argument("rate", 0.25, float, bounds=Between(0, 0.5)),
        "kind": Argument("kind", "round", str, choices=("round", "square")),
        "fast": Argument("fast", False, bool),
        "free": Argument("free", 3, int),
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"rate": 0},
        {"rate": 0.5},
        {"rate": 0.1, "kind": "square", "fast": True, "free": -(10**9)},
        {"channels": 4},
    ],
)
def test_what_is_allowed(arguments: dict):
    assert problems_of(example, {"channels": 1} | arguments) == []


@pytest.mark.parametrize(("name", "value"), [
    *(("channels", value) for value in (0, 5, 10**400, -1, 1.0, True, "1", None, [1], {"a": 1})),
    *(("rate", value) for value in (-1e-9, 0.51, math.nan, math.inf, -math.inf, False, "0.1", None)),
    *(("kind", value) for value in ("oval", "", 1, None, True, ["round"])),
    *(("fast", value) for value in (0, 1, "true", None)),
    ("free", 2.5),
])  # fmt: skip
def test_what_is_refused(name: str, value: object):
    (problem,) = problems_of(example, {"channels": 1, name: value})
    assert problem.startswith(f"{name} must be {arguments_of(example)[name]}, not ")
    assert len(problem) < 120


def test_unknown_and_missing_arguments_are_named_all_at_once():
    assert problems_of(example, {"size": 3, "rate": 7}) == [
        "there is no argument 'size'; there are rate, kind, fast, free",
        "channels is missing",
        "rate must be a number from 0 to 0.5, not 7",
    ]


def test_an_annotation_that_json_cannot_be_checked_against_is_a_bug():
    def build(channels: list[int]) -> nn.Module: ...

    with pytest.raises(AssertionError, match="channels needs an annotation"):
        arguments_of(build)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestEveryArchitecture:
    def test_defaults_are_json_and_allowed(self, architecture: str):
        defaults = default_arguments(architecture)
        assert json.loads(json.dumps(defaults)) == defaults
        check_arguments(architecture, 1, 2, defaults)
        check_arguments(architecture, 3, 4, {})

    def test_every_argument_has_a_default_and_every_number_bounds(self, architecture: str):
        declared = arguments_of(ARCHITECTURES[architecture])
        assert list(declared)[:2] == ["channels", "classes"]
        assert default_arguments(architecture).keys() == declared.keys() - {"channels", "classes"}
        for argument in declared.values():
            assert argument.kind in (bool, str) or argument.bounds is not None
            assert argument.default is None or argument.accepts(argument.default)

    @pytest.mark.parametrize(("channels", "classes"), [(0, 2), (1, 0), (1025, 2), (1, 256), (True, 2), (1, 2.0)])
    def test_impossible_channels_and_classes_are_refused(self, architecture: str, channels: int, classes: int):
        with pytest.raises(UsageError, match=r"channels must be|classes must be"):
            check_arguments(architecture, channels, classes, {})

    def test_an_argument_it_does_not_have_is_refused_before_anything_is_built(self, architecture: str):
        with pytest.raises(UsageError, match="there is no argument 'layers'"):
            build_network(architecture, channels=1, classes=2, layers=3)


@pytest.mark.parametrize("arguments", [
    {"depth": 10**6}, {"depth": 0}, {"depth": 8}, {"features": 0}, {"features": 1025}, {"dropout": 1.0},
    {"dropout": -0.1}, {"temperature": 0}, {"temperature": -1.0}, {"padding": "full"}, {"upsampling": "nearest"},
    {"batch_norm": 1}, {"block_dropout": 2},
])  # fmt: skip
def test_the_bounds_of_the_classic_network(arguments: dict):
    start = time.perf_counter()
    with pytest.raises(UsageError, match=f"unet: {next(iter(arguments))} must be"):
        build_network("unet", channels=1, classes=2, **arguments)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(("architecture", "arguments"), [
    ("unet", {"features": 1024, "depth": 7}), ("unet-2015", {"features": 1024, "depth": 5}),
    ("fcn8s", {"features": 1024}),
])  # fmt: skip
def test_a_network_too_large_for_any_memory_is_refused_without_allocating_it(architecture: str, arguments: dict):
    with pytest.raises(UsageError, match=r"would have [\d,]+ parameters, more than 2,147,483,648"):
        build_network(architecture, channels=1, classes=2, **arguments)


def test_an_unknown_architecture_is_refused_with_those_there_are():
    for refused in (
        lambda: build_network("vnet", channels=1, classes=2),
        lambda: check_arguments("vnet", 1, 2, {}),
        lambda: default_arguments("vnet"),
    ):
        with pytest.raises(UsageError, match="unknown architecture 'vnet'") as caught:
            refused()
        assert all(name in caught.value.hint for name in ARCHITECTURES)

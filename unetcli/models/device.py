"""Where a network runs and in which precision."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import torch

from unetcli.errors import ResourceError, UsageError
from unetcli.images.threads import limit_threads

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """A device, the precision of its arithmetic, and why they were chosen.

    Parameters
    ----------
    name : what torch calls it: "cpu", "cuda:0", "mps".
    precision : "fp32", "bf16" or "fp16".
    reason : one line for the user.
    """

    name: str
    precision: str
    reason: str

    @property
    def torch(self) -> torch.device:
        """The device for tensors."""
        return torch.device(self.name)

    @property
    def kind(self) -> str:
        """Return "cpu", "cuda" or "mps"."""
        return self.torch.type

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Run convolutions in this precision; float32 is exact float32, without TF32."""
        if self.kind == "cuda":
            torch.backends.cuda.matmul.fp32_precision = "ieee"
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        with torch.autocast(self.kind, dtype=PRECISIONS[self.precision], enabled=self.precision != "fp32"):
            yield


def choose_device(name: str = "auto", precision: str = "auto") -> Device:
    """Return the device to use: CUDA where it works, else the CPU, unless one is named.

    Raises
    ------
    UsageError : an unknown device or precision.
    ResourceError : the named device is absent, or cannot compute in the named precision.
    """
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"unknown precision {precision!r}", hint="--precision takes auto, fp32, bf16 or fp16")
    chosen, reason = _find(name)
    if precision == "auto":
        fast = _computes_bf16(chosen)
        precision = "bf16" if fast else "fp32"
        reason += ", bf16 in hardware" if fast else ", no bf16 in hardware"
    if precision == "fp16" and torch.device(chosen).type == "cpu":
        raise ResourceError("fp16 is not available on the CPU", hint="--precision bf16 or --precision fp32")
    return Device(chosen, precision, reason)


def _find(name: str) -> tuple[str, str]:
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(f"unknown device {name!r}", hint="--device takes auto, cpu, cuda, cuda:N or mps")
    if kind in ("auto", "cuda"):
        absent = _why_no_cuda()
        if absent is None:
            number = int(index or 0)
            if number >= torch.cuda.device_count():
                raise ResourceError(
                    f"{name}: this machine has {torch.cuda.device_count()} CUDA devices", hint="--device cuda:0"
                )
            absent = _why_no_kernel(number)
            if absent is None:
                return f"cuda:{number}", torch.cuda.get_device_name(number)
        if kind == "cuda":
            raise ResourceError(f"CUDA is not available ({absent})", hint="--device cpu")
    if kind == "mps" or (kind == "auto" and torch.backends.mps.is_available()):
        if not torch.backends.mps.is_available():
            raise ResourceError("MPS is not available on this machine", hint="--device cpu")
        return "mps", "Apple GPU"
    return "cpu", f"{torch.get_num_threads()} threads" + (f", no CUDA: {absent}" if kind == "auto" else "")


def _why_no_cuda() -> str | None:
    if torch.version.cuda is None:
        return "this torch is a CPU build"
    if not torch.cuda.is_available():
        return "no usable CUDA device or driver"
    return None


def _why_no_kernel(number: int) -> str | None:
    """Return why a card does not compute, as one that is too old for this torch; None where it does."""
    try:
        torch.ones(1, device=f"cuda:{number}").add_(1).item()
    except RuntimeError as error:
        if "out of memory" in str(error).lower():  # it does, but for others at the moment
            return None
        return f"{torch.cuda.get_device_name(number)}: {str(error).splitlines()[0]}"
    return None


def _computes_bf16(name: str) -> bool:
    device = torch.device(name)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and later
    if device.type == "mps":
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # oneDNN emulates bf16 slowly without these
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)


def move_network(
    network: torch.nn.Module, device: Device, layout: torch.memory_format = torch.channels_last
) -> torch.nn.Module:
    """Return the network on the device, its weights in the layout that convolutions predict fastest in, or another."""
    moved: torch.nn.Module = network.to(device.torch, memory_format=layout)  # type: ignore[call-overload]
    return moved


def training_layout(device: Device) -> torch.memory_format:
    """Return the layout that a network learns fastest in: in float32 on a CPU the way back is slow channels last."""
    slow = device.kind == "cpu" and device.precision == "fp32"
    return torch.contiguous_format if slow else torch.channels_last


def set_threads(threads: int | None = None) -> int:
    """Limit the compute threads, by default to the cores this process may use, and return their number."""
    chosen = limit_threads(threads)
    torch.set_num_threads(chosen)
    cv2.setNumThreads(0)
    return chosen


def make_deterministic() -> None:
    """Let CUDA choose only algorithms that repeat themselves bit for bit, slower ones where need be."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)

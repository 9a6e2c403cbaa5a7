"""The processes of one training: one as a rule, several where `torchrun` started them."""

import atexit
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from unetcli.images.threads import cores, processes_here
from unetcli.models.device import Device

LONGEST_WAIT = timedelta(hours=24)  # the others wait while the first one validates


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is.

    Parameters
    ----------
    rank : 0 validates and writes.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process validates and writes."""
        return self.rank == 0

    def join(self, device: Device) -> None:
        """Meet the other processes, if there are any; they stay together until `leave`.

        On CUDA the present device of torch is the one that each process speaks from.
        """
        if self.count > 1 and not distributed.is_initialized():
            backend = "nccl" if device.kind == "cuda" else "gloo"
            distributed.init_process_group(backend, timeout=LONGEST_WAIT)
            atexit.register(_abandon)

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return a network whose gradients are the mean over all processes."""
        return network if self.count == 1 else DistributedDataParallel(network)

    def alone(self, network: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which gradients are added up here and not yet exchanged."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def largest(self, values: Sequence[float], device: Device) -> list[float]:
        """Return the largest of each value over all processes, so that all of them decide alike."""
        if self.count == 1:
            return list(values)
        gathered = torch.tensor(values, dtype=torch.float64, device=device.torch)
        distributed.all_reduce(gathered, distributed.ReduceOp.MAX)
        return [float(value) for value in gathered]

    def from_first(self, values: Sequence[float], device: Device) -> list[float]:
        """Return the values of the first process."""
        if self.count == 1:
            return list(values)
        sent: Tensor = torch.tensor(values, dtype=torch.float64, device=device.torch)
        distributed.broadcast(sent, 0)
        return [float(value) for value in sent]


ALONE = Processes()


def leave() -> None:
    """Part from the other processes, if there are any, at the end of the program: they do not meet twice.

    On CUDA each one waits here for all the others, so after an error that it alone has a process does not come here: it
    ends, and `torchrun` ends the others.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _abandon() -> None:
    """Wait for nobody, as torch does by itself at the end of a program, but with a warning."""
    if distributed.group.WORLD is not None:
        distributed.group.WORLD.abort()


def processes_of_environment() -> Processes:
    """Return what `torchrun` says in the environment; a single process where it says nothing."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return Processes(int(os.environ.get("RANK", "0")), count) if count > 1 else ALONE


def own_cores() -> int:
    """Return how many cores this process has for itself, where `torchrun` started several on this machine."""
    return max(1, cores() // processes_here())


def own_device(name: str) -> str:
    """Return the name of this process's device: with several on one machine, each takes a GPU of its own."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or processes_of_environment().count == 1 or name not in ("auto", "cuda"):
        return name
    return f"cuda:{local}" if torch.cuda.is_available() else name

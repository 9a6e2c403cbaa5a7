"""On what and with what a training runs: hardware and versions, and nothing about the person."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from unetcli import __version__
from unetcli.images import readable_size
from unetcli.images.threads import cores
from unetcli.models.device import Device

LIBRARIES = ("albumentations", "numpy", "opencv-python-headless", "scipy", "scikit-image")


def hardware_rows(device: Device) -> list[tuple[str, str]]:
    """Return name and text of what there is: processor, cores, memory, GPU, system."""
    rows = [("processor", f"{_processor()}, {cores()} cores, {torch.get_num_threads()} threads")]
    if hasattr(os, "sysconf"):
        rows.append(("memory", readable_size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))))
    if device.kind == "cuda":
        card = torch.cuda.get_device_properties(device.torch)
        rows.append(("GPU", f"{card.name}, {readable_size(card.total_memory)}"))
    return [*rows, ("system", f"{platform.system()} {platform.machine()}")]


def version_rows() -> list[tuple[str, str]]:
    """Return name and version of this program and of what it computes with."""
    torch_version = f"{torch.__version__}, CUDA {torch.version.cuda}" if torch.version.cuda else str(torch.__version__)
    rows = [("unet", __version__), ("Python", platform.python_version()), ("torch", torch_version)]
    return rows + [(name, metadata.version(name)) for name in LIBRARIES]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())

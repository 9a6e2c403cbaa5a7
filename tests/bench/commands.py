"""What the scripts that compare trainings share: the program's commands, and the images that a data set holds out."""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(*arguments: object) -> tuple[dict[str, Any], float]:
    """Run a command of the program and return its JSON document and its peak memory in GiB."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "unetcli", *map(str, arguments), "--json", file.name, "--quiet"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # the table of scores
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        return json.loads(Path(file.name).read_text()), usage.ru_maxrss / 2**20


def validation_images(data: Path, folder: Path) -> tuple[Path, Path]:
    """Return folders with links to the images and masks of a data set's validation split, as split.csv lists it."""
    rows = csv.DictReader((data / "split.csv").read_text().splitlines())
    held_out = [row["id"] for row in rows if row["split"] == "val"]
    sources = {"images": data / "images", "masks": data / "instances"}
    endings = {"images": "*", "masks": "*"}
    if not sources["images"].is_dir():  # both in one folder
        sources = dict.fromkeys(sources, data)
        endings = {"images": "bmp", "masks": "png"}
    for kind, source in sources.items():
        (folder / kind).mkdir()
        for name in held_out:
            (found,) = source.glob(f"{name}.{endings[kind]}")
            (folder / kind / found.name).symlink_to(found.resolve())
    return folder / "images", folder / "masks"

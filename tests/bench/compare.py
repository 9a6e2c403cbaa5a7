"""Train every architecture with the same data, time and seed, and compare them: ``make compare``.

Prints a Markdown table and writes ``sample_data/comparison.png``, the same image segmented by all. Arguments: a data
set to train and score on with its validation split, and the time each network gets for it.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from commands import run, validation_images
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

from unetcli.models import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
SCAN = ROOT / "sample_data" / "test" / "images" / "cell_14.tif"
NARROW = "16"  # features of the first level; 32 times less arithmetic than the published widths, alike for all
OUTLINE = (255, 64, 255)


def compare(data: Path, seconds: int, picture_seconds: int) -> None:
    """Print a row per architecture, then write the picture."""
    rows, masks = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, truth = validation_images(data, folder)
        for arch in ARCHITECTURES:
            common = ["--arch", arch, "--features", NARROW, "--seed", 0, "--class-balance", "inverse", "--overwrite"]
            model = folder / f"{arch}.safetensors"
            trained, memory = run(
                "train", data, "-o", model, "--validation", data / "split.csv", "--max-time", f"{seconds}s", *common
            )
            inferred, _ = run("infer", images, "-m", model, "-o", folder / arch)
            scored, _ = run("evaluate", folder / arch, truth)
            rows.append(row_of(arch, model, trained, memory, inferred, scored))
            print(rows[-1], flush=True)
            run("train", ROOT / "sample_data/train", "-o", model, "--max-time", f"{picture_seconds}s", *common)
            run("infer", SCAN, "-m", model, "-o", folder / f"{arch}.tif")
            masks[arch] = tifffile.imread(folder / f"{arch}.tif")
    draw(masks).save(ROOT / "sample_data" / "comparison.png")


def row_of(
    arch: str,
    model: Path,
    trained: dict[str, Any],
    memory: float,
    inferred: dict[str, Any],
    scored: dict[str, Any],
) -> str:
    """Return a row of the table."""
    parameters = model.stat().st_size / 4e6
    history = trained["history"]
    step = 1e3 / float(np.median([epoch["patches_per_second"] for epoch in history]))
    pixels = sum(np.prod(output["shape"]) for output in inferred["outputs"])
    speed = pixels / 1e6 / sum(output["seconds"] for output in inferred["outputs"])
    cells = []
    for metric in ("dice", "pq"):
        summary = scored["summary"][metric]["object"]
        cells.append(f"{summary['mean']:.3f} ({summary['ci_low']:.3f} to {summary['ci_high']:.3f})")
    return f"| {arch} | {parameters:.2f} M | {step:.0f} ms | {memory:.1f} GiB | {speed:.2f} | {' | '.join(cells)} |"


def draw(masks: dict[str, np.ndarray]) -> Image.Image:
    """Return a picture of the scan with the outlines that each network found."""
    scan = tifffile.imread(SCAN).astype(float)
    low, high = np.percentile(scan, (1, 99.8))
    gray = (np.clip((scan - low) / (high - low), 0, 1) ** 0.7 * 255).astype(np.uint8)
    height, width = gray.shape
    columns = 4
    rows = -(-len(masks) // columns)
    sheet = Image.new("RGB", (columns * (width + 8), rows * (height + 26)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (arch, mask) in enumerate(masks.items()):
        tile = np.stack([gray] * 3, axis=2)
        tile[find_boundaries(mask, mode="inner")] = OUTLINE
        left, top = number % columns * (width + 8), number // columns * (height + 26)
        sheet.paste(Image.fromarray(tile), (left, top + 18))
        pen.text((left + 2, top + 2), arch, fill="black")
    return sheet


if __name__ == "__main__":
    print("| architecture | parameters | a patch | peak memory | Mpx/s | Dice (95 % interval) | PQ (95 % interval) |")
    print("|---|---|---|---|---|---|---|")
    compare(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

"""The same four images with masks, written in every layout that is recognized without flags.

Image `i` has the value 10 + i in its corner, and its mask i + 2 pixels of foreground, so that a test can tell whether
the right mask was found. Each function of `LAYOUTS` writes into an empty folder and returns what to name as DATA.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

NUMBERS = range(4)
SHAPE = (20, 24)


def image(number: int) -> np.ndarray:
    pixels = np.add.outer(np.arange(SHAPE[0]) * 5, np.arange(SHAPE[1]) * 3).astype(np.uint8)
    pixels[0, 0] = 10 + number
    return pixels


def mask(number: int, value: int = 255) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[4 : 4 + 2 * (number + 2) : 2, 5] = value
    return labels


def save(path: Path, pixels: np.ndarray) -> Path:
    """Write an image in the format that the extension names, in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(
            path, pixels, photometric="rgb" if pixels.ndim == 3 and pixels.shape[-1] == 3 else "minisblack"
        )
    else:
        Image.fromarray(pixels).save(path)
    return path


def write_pairs(folder: Path, image_name: str, mask_name: str, numbers: Sequence[int] = NUMBERS) -> list[Path]:
    """Write the pairs under names in which {} stands for the number."""
    for number in numbers:
        save(folder / image_name.format(number), image(number))
        save(folder / mask_name.format(number), mask(number))
    return [folder]


def nnunet(folder: Path) -> list[Path]:
    for number in NUMBERS:
        save(folder / f"imagesTr/case_{number:03d}_0000.png", image(number))
        save(folder / f"imagesTr/case_{number:03d}_0001.png", image(number)[::-1])
        save(folder / f"labelsTr/case_{number:03d}.png", mask(number, 1))
    save(folder / "imagesTs/case_100_0000.png", image(0))
    save(folder / "imagesTs/case_100_0001.png", image(0))
    description = {
        "channel_names": {"0": "a", "1": "b"},
        "labels": {"background": 0, "cell": 1},
        "numTraining": len(NUMBERS),
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return [folder]


def cellpose(folder: Path) -> list[Path]:
    write_pairs(folder, "cell{}_img.tif", "cell{}_masks.tif")
    save(folder / "cell0_img_cp_masks.tif", mask(0))
    save(folder / "cell0_img_flows.tif", image(0))
    (folder / "cell0_img_seg.npy").write_bytes(b"\x93NUMPY")
    return [folder]


def milesial(folder: Path) -> list[Path]:
    return write_pairs(folder, "data/imgs/{}.png", "data/masks/{}_mask.gif")


def tf_unet(folder: Path) -> list[Path]:
    return write_pairs(folder, "train/fish_{}.tif", "train/fish_{}_mask.tif")


def zhixuhao(folder: Path) -> list[Path]:
    write_pairs(folder, "train/image/{}.png", "train/label/{}.png")
    save(folder / "test/0.png", image(0))
    save(folder / "test/0_predict.png", mask(0))
    return [folder]


def isbi_folder(folder: Path) -> list[Path]:
    isbi_files(folder)
    save(folder / "test-volume.tif", np.stack([image(number) for number in NUMBERS]))
    (folder / "split.json").write_text("{}")
    return [folder]


def isbi_files(folder: Path) -> list[Path]:
    images = save(folder / "train-volume.tif", np.stack([image(number) for number in NUMBERS]))
    masks = save(folder / "train-labels.tif", np.stack([mask(number) for number in NUMBERS]))
    return [images, masks]


def stardist(folder: Path) -> list[Path]:
    write_pairs(folder, "train/images/n{}.tif", "train/masks/n{}.tif", NUMBERS[:3])
    return write_pairs(folder, "test/images/n{}.tif", "test/masks/n{}.tif", NUMBERS[3:])


def instances(folder: Path) -> list[Path]:
    write_pairs(folder, "images/n{}.png", "instances/n{}.png")
    (folder / "split.csv").write_text("id,split\nn0,train\n")
    return [folder]


def qupath(folder: Path) -> list[Path]:
    return write_pairs(folder, "ground_truth/images/slide_{}.tif", "ground_truth/masks/slide_{}.tif")


def biapy_raw(folder: Path) -> list[Path]:
    return write_pairs(folder, "data/train/raw/training-000{}.tif", "data/train/label/training_groundtruth-000{}.tif")


def biapy_xy(folder: Path) -> list[Path]:
    write_pairs(folder, "train/x/a{}.tif", "train/y/a{}.tif")
    save(folder / "test/x/b.tif", image(0))
    return [folder]


def deepflash2(folder: Path) -> list[Path]:
    return write_pairs(folder, "images/mouse{}.tif", "masks/mouse{}_roi-by-ann.png")


def empanada(folder: Path) -> list[Path]:
    for group, numbers in (("liver", NUMBERS[:2]), ("brain", NUMBERS[2:])):
        write_pairs(folder, f"{group}/images/{{}}.tiff", f"{group}/masks/{{}}.tiff", numbers)
    return [folder]


def keras_segmentation(folder: Path) -> list[Path]:
    write_pairs(folder, "images_prepped_train/{}.png", "annotations_prepped_train/{}.png", NUMBERS[:3])
    return write_pairs(folder, "images_prepped_test/{}.png", "annotations_prepped_test/{}.png", NUMBERS[3:])


def cell_tracking(folder: Path) -> list[Path]:
    for number in range(9):
        save(folder / f"01/t{number:03d}.tif", image(number))
    for number in NUMBERS[:3]:
        save(folder / f"01_GT/SEG/man_seg{number:03d}.tif", mask(number))
    save(folder / "01_GT/TRA/man_track000.tif", mask(0))
    save(folder / "01_RES/mask000.tif", mask(0))
    save(folder / "02/t000.tif", image(3))
    save(folder / "02_ST/SEG/man_seg000.tif", mask(3))
    return [folder]


def folder_per_image(folder: Path) -> list[Path]:
    for number in NUMBERS:
        name = f"{number}a7f"
        save(folder / f"stage1_train/{name}/images/{name}.png", image(number))
        for index, (y, x) in enumerate(np.argwhere(mask(number))):
            single = np.zeros(SHAPE, np.uint8)
            single[y, x] = 255
            save(folder / f"stage1_train/{name}/masks/{9 - index}c.png", single)
    save(folder / "stage1_test/99/images/99.png", image(0))
    return [folder]


def two_extensions(folder: Path) -> list[Path]:
    write_pairs(folder, "{:03d}.bmp", "{:03d}.png")
    (folder / "split.csv").write_text("id,split\n000,train\n")
    return [folder]


def masks_below_images(folder: Path) -> list[Path]:
    return write_pairs(folder, "n{}.tif", "masks/n{}.tif")


LAYOUTS: dict[str, Callable[[Path], list[Path]]] = {
    "L1 nnU-Net": nnunet,
    "L2 Cellpose": cellpose,
    "L3 milesial": milesial,
    "L4 tf_unet": tf_unet,
    "L5 zhixuhao": zhixuhao,
    "L6 ISBI folder": isbi_folder,
    "L6 ISBI files": isbi_files,
    "L7 StarDist": stardist,
    "L7 instances": instances,
    "L8 QuPath": qupath,
    "L9 BiaPy raw, label": biapy_raw,
    "L9 BiaPy x, y": biapy_xy,
    "L11 deepflash2": deepflash2,
    "L12 empanada": empanada,
    "L15 keras": keras_segmentation,
    "L16 Cell Tracking Challenge": cell_tracking,
    "L17 DSB 2018": folder_per_image,
    "L19 two extensions": two_extensions,
    "masks below the images": masks_below_images,
}

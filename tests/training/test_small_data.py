"""From one image on, every training has a finite, honest score; one that collapses is named."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from unetcli.cli import run
from unetcli.errors import UnetWarning
from unetcli.models.modelfile import load_model, read_description
from unetcli.training.records import EpochRecord
from unetcli.training.train import COLLAPSED_EPOCHS, warn_of_collapse

FAST = ["--features", "4", "--depth", "2", "--patch-size", "84", "--epochs", "1", "--threads", "1", "--workers", "0"]
RECORD = EpochRecord(1, 1.0, 1e-3, 0.5, 0.5, 0.5, (0.5,), 0.2, True, 10.0)


def write(folder, number, *, size=90, share=0.3, channels=1):
    """Images with bright discs that cover about a share of the pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(number):
        mask = np.zeros((size, size), np.uint8)
        while mask.mean() < share:
            cy, cx = rng.uniform(0, size, 2)
            mask[(y - cy) ** 2 + (x - cx) ** 2 < 20] = 1
        image = (60 + 90 * mask + rng.normal(0, 8, mask.shape)).clip(0, 255).astype(np.uint8)
        image = image if channels == 1 else np.stack([image] * channels, axis=-1)
        tifffile.imwrite(folder / f"images/{index}.tif", image, photometric="rgb" if channels == 3 else "minisblack")
        tifffile.imwrite(folder / f"masks/{index}.tif", mask * 255)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", [1, 2, 3, 4, 9, 10])
def test_any_number_of_images(number, place, capsys):
    write(place / "cells", number)
    assert run(["train", "cells", *FAST]) == 0
    said = capsys.readouterr().err
    assert ("optimistic" in said) == (number < 4)
    score = read_description(place / "unet.safetensors").training["score"]
    assert math.isfinite(score)
    assert 0 <= score <= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_percent_of_foreground_is_found(place):
    write(place / "cells", 6, size=256, share=0.01)
    arguments = ["--features", "8", "--depth", "3", "--epochs", "12", "-q"]
    assert run(["train", "cells", *arguments]) == 0
    assert read_description(place / "unet.safetensors").training["score"] > 0.3


@pytest.mark.parametrize(("share", "said"), [(0.0, "background"), (1.0, "foreground"), (0.001, None), (0.999, None)])
def test_a_collapse_is_named(share, said, recwarn):
    history = [replace(RECORD, epoch=epoch, foreground=share) for epoch in range(1, COLLAPSED_EPOCHS)]
    warn_of_collapse(history)
    assert not recwarn.list
    history.append(replace(RECORD, epoch=COLLAPSED_EPOCHS, foreground=share))
    if said is None:
        warn_of_collapse(history)
        assert not recwarn.list
    else:
        with pytest.warns(UnetWarning, match=f"nothing but {said}: .* --learning-rate"):
            warn_of_collapse(history)
        for epoch in range(COLLAPSED_EPOCHS + 1, 3 * COLLAPSED_EPOCHS):  # it has been said
            history.append(replace(RECORD, epoch=epoch, foreground=share))
            warn_of_collapse(history)
        history += [RECORD, *history[:COLLAPSED_EPOCHS]]
        with pytest.warns(UnetWarning, match=f"nothing but {said}"):
            warn_of_collapse(history)


def test_init_and_freeze_on_the_command_line(place, capsys):
    write(place / "cells", 4)
    write(place / "more", 4, channels=3)
    assert run(["train", "cells", *FAST, "-q"]) == 0
    again = ["--init", "unet.safetensors", "--freeze", "contracting", *FAST[4:]]
    assert run(["train", "cells", *again, "-o", "tuned.safetensors", "-q"]) == 0
    before, after = (load_model(place / f"{name}.safetensors")[0].state_dict() for name in ("unet", "tuned"))
    same = {name for name, tensor in before.items() if np.array_equal(tensor, after[name])}
    assert same == {name for name in before if name.startswith("contracting")}

    assert run(["train", "more", *again, "-o", "rgb.safetensors"]) == 0
    assert "these layers were adapted" in capsys.readouterr().err
    assert read_description(place / "rgb.safetensors").channels == 3
    assert run(["train", "cells", *again, "--features", "8", "-o", "wide.safetensors"]) == 2
    assert "leave out --features 8" in capsys.readouterr().err
    assert run(["train", "cells", "--init", "absent.safetensors", "-o", "a.safetensors"]) == 2
    assert run(["train", "cells", *FAST, "--freeze", "encoder", "-o", "a.safetensors"]) == 2
    assert "contracting" in capsys.readouterr().err


def test_deterministic_is_a_matter_of_cuda(place):
    import torch

    write(place / "cells", 4)
    try:
        assert run(["train", "cells", *FAST, "-q", "--deterministic"]) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    assert run(["train", "cells", *FAST, "-q", "-o", "b.safetensors"]) == 0
    assert load_model(place / "unet.safetensors")[2] == load_model(place / "b.safetensors")[2]


def test_batch_normalization_gets_a_batch():
    from unetcli.models import build_network
    from unetcli.training.plan import usual_batch_size

    plain, normalized = (
        build_network("unet", channels=1, classes=2, features=2, depth=1, batch_norm=batch_norm)
        for batch_norm in (False, True)
    )
    assert [usual_batch_size(plain, 196**2, size) for size in (1000, 196, 98, 10)] == [1, 1, 4, 16]
    assert [usual_batch_size(normalized, 196**2, size) for size in (1000, 196, 98, 10)] == [4, 4, 4, 16]

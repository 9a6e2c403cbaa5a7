"""The page of a training: curves, pictures, what was typed; nothing from elsewhere, and not often."""

import html
import re
import shlex
import subprocess
from dataclasses import replace

import pytest
import tifffile
from html_pages import BROWSER, CHROMIUM, Structure
from training.test_loop import CPU, discs
from training.test_runfolder import record_of

from unetcli import report
from unetcli.cli import run
from unetcli.dataset.pairs import find_pairs
from unetcli.dataset.survey import survey
from unetcli.training.config import TrainConfig
from unetcli.training.page import SHARE_OF_TIME, TrainingPage
from unetcli.training.plan import plan
from unetcli.training.validation import validate

EVIL = "<script>alert(1)<;script>&'"
SMALL = ["--features", "2", "--depth", "1", "--patch-size", "84", "--threads", "1", "--workers", "0"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Four images with evil names and two classes."""
    folder = tmp_path_factory.mktemp("cells")
    for seed in range(4):
        sample = discs(seed)
        for kind, pixels in (("images", sample.image[..., 0]), ("masks", (sample.labels + 1) // 2 % 3)):
            (folder / kind).mkdir(exist_ok=True)
            tifffile.imwrite(folder / kind / f"{EVIL}{seed}.tif", pixels.astype("uint8"))
    return folder


@pytest.fixture(scope="module")
def trained(cells, tmp_path_factory):
    """The command and the page of a training of three epochs."""
    model = tmp_path_factory.mktemp("trained") / "a model.safetensors"
    arguments = ["train", str(cells), "-o", str(model), "--task", "semantic", "--classes", f"a,{EVIL},c", *SMALL]
    arguments += ["--epochs", "3", "--seed", "41"]
    assert run([*arguments, "-q"]) == 0
    return [*arguments, "-q"], (model.with_suffix(".run") / "report.html").read_text(encoding="utf-8")


def curves(page):
    """Return the number of points of each curve."""
    return [len(points.split()) for points in re.findall('<polyline points="(.*?)"', page)]


def test_the_page_holds_curves_and_pictures(trained):
    _, page = trained
    assert curves(page) == [3, 3, 3, 3, 3, 3]  # two losses, Dice: mean and two classes, learning rate
    structure = Structure(page)
    assert len(structure.addresses) == 3 * 4 + 3  # patches with their layers, and the held-out image with two outlines
    for heading in ("Course", "Held-out images as epoch", "Patches as training sees them", "Data", "Plan", "Run"):
        assert f"<h2>{heading}" in page
    assert "3 of 3 epochs; best: epoch" in page


def test_nothing_comes_from_elsewhere(trained):
    _, page = trained
    assert all(address.startswith("data:image/png;base64,") for address in Structure(page).addresses)
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|url\(|@import|<link|<iframe|<object|refresh", text)


def test_names_are_escaped(trained):
    """SEC06."""
    _, page = trained
    assert Structure(page).scripts == 1
    assert "<script>alert" not in page
    assert html.escape(EVIL) in page  # of the class
    assert re.search(re.escape(html.escape(EVIL)) + r"\d</b>", page)  # of an image


def test_it_says_what_was_typed_and_on_what_it_ran(trained):
    command, page = trained
    assert f"<pre>{html.escape(shlex.join(['unet', *command]))}</pre>" in page
    rows = dict(re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td></tr>", page))
    assert rows["seed"] == "41"
    assert re.fullmatch("[0-9a-f]{64}", rows["weights, SHA-256"])
    assert {"processor", "memory", "system", "unet", "Python", "torch", "albumentations", "numpy"} <= rows.keys()


def test_a_training_that_is_continued_keeps_its_commands(cells, tmp_path):
    model = tmp_path / "unet.safetensors"
    begin = ["train", str(cells), "-o", str(model), "--task", "semantic", *SMALL, "--epochs", "1", "-q"]
    assert run(begin) == 0
    page = model.with_suffix(".run") / "report.html"
    assert curves(page.read_text(encoding="utf-8")) == [1] * 6
    resume = ["train", str(cells), "-o", str(model), "--resume", "--epochs", "2", "-q"]
    assert run(resume) == 0
    text = page.read_text(encoding="utf-8")
    assert curves(text) == [2] * 6
    assert "Held-out images as epoch" in text
    for command in (begin, resume):
        assert f"<pre>{html.escape(shlex.join(['unet', *command]))}</pre>" in text


class Pages:
    """A run folder that counts."""

    def __init__(self):
        self.written = []

    def write_page(self, page):
        self.written.append(page)


@pytest.fixture
def page(cells, tmp_path):
    """A page whose clock goes on by a second whenever it is looked at."""
    found = survey(find_pairs(cells), task="semantic")
    config = TrainConfig(
        tmp_path / "unet.safetensors", epochs=9, device="cpu", arguments={"features": 2, "depth": 1}, workers=0
    )
    decided, trainer = plan(config, found)
    seconds = iter(range(10**6))
    return TrainingPage(Pages(), config, found, decided, trainer, clock=lambda: next(seconds))


def look(page, epoch, *, best):
    trainer = page.trainer
    trainer.score = validate(
        trainer.network.eval(), trainer.held_out, task="semantic", classes=3, device=CPU, size=trainer.tile
    )
    trainer.history.append(record_of(epoch, best=best))


def test_writing_takes_a_small_share_of_the_time(page):
    """A write takes a second of this clock; it is asked for at every other second."""
    asked = 500
    for _ in range(asked):
        page.update("")
    assert len(page.folder.written) == pytest.approx(asked * SHARE_OF_TIME, abs=2)
    page.finish("")
    assert "refresh" not in page.folder.written[-1]
    assert all('http-equiv="refresh"' in text for text in page.folder.written[:-1])


def test_a_page_without_an_epoch_has_the_plan_and_the_patches(page):
    page.update("")
    (text,) = page.folder.written
    assert "No epoch is done yet" in text
    assert "0 of 9 epochs" in text
    assert "Patches as training sees them" in text
    assert "Held-out images" not in text
    Structure(text)


def test_pictures_are_of_the_best_epoch_and_drawn_once(page, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "unetcli.training.page.picture_of", lambda look, sample: drawn.append(look) or report.Picture("a", "b", ())
    )
    for epoch, best in enumerate((True, False, True, False), start=1):
        look(page, epoch, best=best)
        page.not_before = 0
        page.update("")
    titles = [re.search("Held-out images as epoch (\\d)", text)[1] for text in page.folder.written]
    assert titles == ["1", "1", "3", "3"]
    assert len(drawn) == 2 * len(page.trainer.held_out)


def test_pictures_of_a_training_that_is_continued_are_of_its_best_epoch(page):
    page.trainer.history = [record_of(1), replace(record_of(2), best=True)]
    page.look_back(page.trainer.network)
    look(page, 3, best=False)
    page.update("")
    assert "Held-out images as epoch 2" in page.folder.written[0]


def test_looking_back_ends_when_told_to_stop(page):
    page.trainer.history = [replace(record_of(1), best=True)]
    page.trainer.stop = lambda: True
    page.look_back(page.trainer.network)
    assert page.looks == ()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_a_telephone_shows_it_without_scrolling_sideways(trained, tmp_path):
    frame = f'<iframe style="width:340px;height:600px" srcdoc="{html.escape(trained[1])}"></iframe>'
    probe = """<script>onload = () => {
    const page = document.querySelector('iframe').contentDocument;
    const images = [...page.images];
    document.title = [page.documentElement.scrollWidth, page.documentElement.clientWidth,
                      images.every(i => i.complete && i.naturalWidth > 0)].join('|');
    }</script>"""
    copy = tmp_path / "probe.html"
    copy.write_text(f"<!DOCTYPE html><meta charset=utf-8><title></title>{frame}{probe}", encoding="utf-8")
    command = [*BROWSER, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"]
    shown = subprocess.run([*command, copy.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    wide, visible, loaded = re.search("<title>(.*?)</title>", shown)[1].split("|")
    assert 300 < int(wide) <= int(visible)
    assert loaded == "true"

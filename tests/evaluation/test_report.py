"""The HTML report: as text, and in a real browser where there is one."""

import re
import subprocess

import numpy as np
import pytest
from html_pages import BROWSER, CHROMIUM, Structure
from PIL import Image

from unetcli import report
from unetcli.cli import run
from unetcli.evaluation.outputs import GALLERY_SIZE, WORST_FIRST, sort_pages, spread
from unetcli.evaluation.overlays import draw_errors, draw_labels, outlines

EVIL = "<script>alert(1)</script>&'\""


def picture(title=EVIL):
    rng = np.random.default_rng(0)
    layers = tuple((name, rng.integers(0, 255, (8, 9, 3), np.uint8)) for name in ("image", "truth", "prediction"))
    return report.Picture(title, EVIL, layers)


def test_everything_is_escaped_and_closed():
    parts = [
        report.section(EVIL, [report.paragraph(EVIL), report.bullets([EVIL]), report.table([EVIL], [[EVIL]], EVIL)]),
        report.distribution(EVIL, [0.1, 0.9, float("nan")], 0.5, (0.2, 0.8)),
        report.lines(EVIL, {EVIL: [(1, 2.0), (2, float("nan")), (3, 1.0)]}, EVIL),
        report.matrix([EVIL, "b"], np.array([[3, 1], [0, 0]])),
        report.key({EVIL: "#fff"}),
        report.gallery([picture()]),
        report.strips([picture()]),
        report.command(EVIL),
    ]
    text = report.document(EVIL, EVIL, parts)
    found = Structure(text)
    assert found.scripts == 1
    assert "<script>alert" not in text
    assert all(address.startswith("data:image/png;base64,") for address in found.addresses)


def test_names_that_are_no_text_are_shown():
    name = b"caf\xe9.tif".decode("utf-8", "surrogateescape") + "\x1b[31m\n"
    text = report.paragraph(name)
    text.encode("utf-8")
    assert "caf\\udce9.tif" in text
    assert "\x1b" not in text


def test_plots_of_nothing_say_so():
    assert "no defined value" in report.distribution("dice", [float("nan")], float("nan"), (0, 1))
    assert "no values" in report.lines("loss", {"train": []}, "epoch")


@pytest.mark.parametrize("epochs", [1, 2, 3, 12, 500])
def test_curves_hold_every_epoch_and_ticks_are_whole(epochs):
    points = [(epoch, 1 / epoch) for epoch in range(1, epochs + 1)]
    text = report.lines("loss", {"a": points, "b": points[:1]}, "epoch", mark=epochs)
    curves = [line.split() for line in re.findall('<polyline points="(.*?)"', text)]
    assert [len(curve) for curve in curves] == [epochs, 1]
    places = [float(place.split(",")[0]) for place in curves[0]]
    assert places == sorted(places)
    assert text.count("<circle") == 2  # the last point of each, so that a single one is seen
    ticks = [float(tick) for tick in re.findall(r'y="226" text-anchor="middle">(.*?)<', text)]
    assert ticks
    assert all(tick == int(tick) and 1 <= tick <= epochs for tick in ticks)
    assert f'd="M{places[-1]:.1f} 12V210"' in text  # the mark


def test_curves_of_many_classes_are_told_apart():
    text = report.lines("Dice", {f"class {n}": [(1, n), (2, n)] for n in range(18)}, "epoch")
    styles = re.findall('<polyline points=".*?" style="(.*?)"', text)
    assert len(set(styles)) == 18
    assert text.count("<i style") == 18


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.93, 0.97), (-3, 1200), (5, 5), (0, 0), (7e-9, 7e-9), (0, 1e-7),
                                           (0.8, 0.8000000000000002), (2**0.5 - 3e-16, 2**0.5)])  # fmt: skip
def test_ticks_enclose_the_data_and_are_round(low, high):
    ticks = report.nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_a_gray_picture_takes_no_colors():
    gray = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    colors = np.stack([gray] * 3, axis=2)
    assert report.data_uri(colors) == report.data_uri(gray)
    colors[0, 0, 0] ^= 1
    assert len(report.data_uri(colors)) > 1.5 * len(report.data_uri(gray))


def test_points_of_a_distribution_stand_at_their_values():
    text = report.distribution("dice", [0.0, 0.5, 1.0], 0.5, (0.25, 0.75))
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)" cy="58', text)]
    assert places == pytest.approx([14, 160, 306], abs=0.1)
    assert "M87.0 72H233.0" in text


def test_pages_are_sorted_from_worst_to_best():
    values = [0.5, float("nan"), 0.1, 0.9]
    assert sort_pages(values, higher_is_better=True) == [2, 0, 3, 1]
    assert sort_pages(values, higher_is_better=False) == [3, 0, 2, 1]


def test_a_large_gallery_keeps_the_worst_and_the_best():
    chosen = spread(list(range(500)))
    assert len(chosen) == GALLERY_SIZE
    assert chosen[:WORST_FIRST] == list(range(WORST_FIRST))
    assert chosen[-1] == 499
    assert chosen == sorted(set(chosen))


def test_colors_of_errors():
    truth, prediction = np.array([[1, 1, 0, 0, 2, -1]]), np.array([[1, 0, 1, 0, 1, 1]])
    colors = [tuple(color) for color in draw_errors(truth, prediction)[0]]
    right, missed, extra, nothing, other, ignored = colors
    assert right == (255, 255, 255)
    assert nothing == (0, 0, 0)
    assert len({right, missed, extra, nothing, other, ignored}) == 6
    luminance = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (missed, extra)]
    assert abs(luminance[0] - luminance[1]) > 25  # also told apart without colors


def test_outlines_show_where_objects_touch():
    touching = np.array([[1, 1, 2, 2]] * 4)
    np.testing.assert_array_equal(outlines(np.pad(touching, 2))[3, 2:6], [True, True, True, True])
    inside = outlines(np.ones((5, 5), int))
    assert inside.sum() == 16
    assert len(np.unique(draw_labels(touching, objects=True).reshape(-1, 3), axis=0)) >= 1


@pytest.fixture
def made(tmp_path):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:60, :80]
    for number in range(4):
        truth = ((y - 30) ** 2 + (x - 40) ** 2 < 300).astype(np.uint8) * 255
        prediction = np.roll(truth, 3 * number, axis=1)
        image = (truth // 2 + rng.integers(0, 60, truth.shape)).astype(np.uint8)
        name = f"n{number}" if number else "<b>&x"
        for folder, array in (("data/images", image), ("data/masks", truth), ("p", prediction)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{name}.png")
    target = tmp_path / "report.html"
    assert run(["evaluate", str(tmp_path / "p"), str(tmp_path / "data"), "--report", str(target), "-q"]) == 0
    return target


def test_the_report_is_one_file_sorted_from_worst_to_best(made, capsys):
    text = made.read_text(encoding="utf-8")
    found = Structure(text)
    assert found.scripts == 1
    assert all(address.startswith("data:") for address in found.addresses)
    assert "&lt;b&gt;&amp;x" in text
    assert "<b>&x" not in text
    titles = re.findall(r"<figcaption><b>(.*?)</b>", text)
    assert titles == ["n3", "n2", "n1", "&lt;b&gt;&amp;x"]
    for heading in ("Summary", "Distributions", "Confusion matrix", "From worst to best by dice"):
        assert f"<h2>{heading}" in text
    assert "http" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_a_browser_shows_it_and_the_slider_fades(made, tmp_path):
    """The page is driven by a script appended to a copy: move the first slider, report what the layers look like."""
    probe = """<script>
    const figure = document.querySelector('figure.slider'), range = figure.querySelector('input');
    const look = () => [...figure.querySelectorAll('img')].map(i => getComputedStyle(i).opacity).join(' ');
    const start = look(); range.value = 1; range.dispatchEvent(new Event('input')); const middle = look();
    figure.querySelector('.names button').click(); const end = look();
    const loaded = [...document.images].every(i => i.complete && i.naturalWidth > 0);
    document.title = [start, middle, end, loaded, document.querySelectorAll('svg').length].join('|');
    </script></body>"""
    copy = tmp_path / "probe.html"
    copy.write_text(made.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    browser = [*BROWSER, f"--user-data-dir={tmp_path / 'profile'}"]
    command = [*browser, "--virtual-time-budget=3000", "--dump-dom", copy.as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    start, middle, end, loaded, plots = re.search("<title>(.*?)</title>", page)[1].split("|")
    assert start == "1 1 1 1"
    assert middle == "1 1 0 0"
    assert end == "1 0 0 0"
    assert loaded == "true"
    assert int(plots) == 7
    shot = tmp_path / "shot.png"
    command = [*browser, "--window-size=1200,900", f"--screenshot={shot}", made.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    pixels = np.array(Image.open(shot).convert("RGB"))
    assert pixels.shape[:2] == (900, 1200)
    assert 0.5 < (pixels.min(axis=2) > 240).mean() < 0.995  # a page with something on it

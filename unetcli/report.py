"""Self-contained HTML from plain data: tables, plots as inline SVG, and pictures.

Every function returns a piece of HTML in which all text is escaped; `document` puts pieces together. The file needs
no network, no script library and no font.
"""

import base64
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLUE, ORANGE = "var(--blue)", "var(--orange)"  # Okabe and Ito: told apart by everybody; lighter on a dark page
SERIES = (BLUE, ORANGE, "var(--green)", "var(--pink)", "var(--gold)", "var(--sky)")
DASHES = ("none", "6 3", "2 3")  # of the curves beyond the first six, and beyond the first twelve
Scale = Callable[[float], float]

_STYLE = """
:root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--faint:#5c5c5c;--rule:#e2e2e2;--shade:#f6f6f6;--axis:#888;
--blue:#0072b2;--orange:#d55e00;--green:#009e73;--pink:#cc79a7;--gold:#e69f00;--sky:#56b4e9}
@media (prefers-color-scheme:dark){:root{--ink:#e4e4e4;--paper:#17191c;--faint:#a3a7ab;--rule:#34383c;--shade:#212428;
--axis:#80868b;--blue:#4aa8e0;--orange:#f08a45;--green:#2fc39a;--pink:#dd9dc0;--gold:#efb53e;--sky:#8ccdf2}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink);background:var(--paper);
max-width:1100px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--rule)}
p,li{max-width:75ch;overflow-wrap:anywhere}.lead{color:var(--faint);margin-top:0}.scroll{overflow-x:auto}
pre{background:var(--shade);padding:.6rem .8rem;border-radius:4px;white-space:pre-wrap;overflow-wrap:anywhere}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin-bottom:1rem}
caption{text-align:left;color:var(--faint);padding-bottom:.3rem}
th,td{padding:.25rem .7rem;border-bottom:1px solid var(--rule);text-align:left;vertical-align:top;max-width:44ch;
overflow-wrap:break-word}
th{background:var(--shade)}td.number,th.number{text-align:right;white-space:nowrap}
figure{margin:0;min-width:0}figcaption{color:var(--faint);font-size:.9rem;overflow-wrap:anywhere}
svg{max-width:100%;height:auto;fill:var(--faint)}.rule{stroke:var(--rule)}.axis{stroke:var(--axis)}
.plots{display:flex;flex-wrap:wrap;gap:1.2rem}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr));gap:1.4rem}
.stack{position:relative;background:#000;line-height:0}.stack img{width:100%;display:block;image-rendering:pixelated}
.stack img+img{position:absolute;inset:0}
.strip{margin-bottom:1.2rem}.strip>div{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.6rem}
.strip img{width:100%;display:block}.strip div div{font-size:.85rem;color:var(--faint)}
input[type=range]{width:100%;margin:.4rem 0 0}
.names{display:flex;justify-content:space-between;font-size:.85rem;margin-bottom:.3rem}
.names button{all:unset;cursor:pointer;color:var(--faint);padding:0 .2rem}
.names button[aria-pressed=true]{color:var(--ink);font-weight:600}
.names button:focus-visible{outline:2px solid var(--blue)}
.key{margin:.2rem 0 .6rem;font-size:.9rem}.key span{display:inline-block;margin-right:1rem}
.key i{display:inline-block;width:.9em;height:.9em;margin-right:.35em;vertical-align:-.1em;border:1px solid var(--axis)}
"""
_SCRIPT = """
for (const figure of document.querySelectorAll('figure.slider')) {
  const images = figure.querySelectorAll('.stack img'), range = figure.querySelector('input');
  const names = figure.querySelectorAll('.names button');
  const show = () => {
    const at = Number(range.value);
    images.forEach((image, i) => { if (i) image.style.opacity = Math.min(1, Math.max(0, at - i + 1)); });
    names.forEach((name, i) => name.setAttribute('aria-pressed', String(Math.round(at) === i)));
  };
  range.addEventListener('input', show);
  names.forEach((name, i) => name.addEventListener('click', () => { range.value = i; show(); }));
  show();
}
"""


@dataclass(frozen=True)
class Picture:
    """One entry of a gallery: pictures of one size, laid over each other.

    Parameters
    ----------
    title, caption : text.
    layers : what each picture shows, and its pixels, uint8 (H, W), (H, W, 3), or (H, W, 4) where one sees through.
    """

    title: str
    caption: str
    layers: tuple[tuple[str, NDArray[np.uint8]], ...]


def document(title: str, lead: str, parts: Sequence[str], *, reload_seconds: int | None = None) -> str:
    """Return a whole HTML page; one that is still being written can ask to be loaded again after some seconds."""
    again = f'<meta http-equiv="refresh" content="{reload_seconds}">' if reload_seconds else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{again}<meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>{_escape(title)}</title><style>{_STYLE}</style></head>'
        f'<body><h1>{_escape(title)}</h1><p class="lead">{_escape(lead)}</p>{"".join(parts)}'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def section(title: str, parts: Sequence[str]) -> str:
    """Return a heading and what belongs to it."""
    return f"<section><h2>{_escape(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{_escape(text)}</p>"


def command(text: str) -> str:
    """Return a command as it was typed."""
    return f"<pre>{_escape(text)}</pre>"


def bullets(texts: Sequence[str]) -> str:
    """Return a list of points."""
    return f"<ul>{''.join(f'<li>{_escape(text)}</li>' for text in texts)}</ul>"


def table(header: Sequence[str], rows: Sequence[Sequence[str | float | int]], caption: str = "") -> str:
    """Return a table; numbers stand to the right, with four digits after the point. A header of "" is left out."""
    numeric = [all(not isinstance(row[i], str) for row in rows) and bool(rows) for i in range(len(header))]

    def line(kind: str, cells: Sequence[str | float | int]) -> str:
        marks = (' class="number"' if right else "" for right in numeric)
        texts = (f"<{kind}{mark}>{_escape(_text(cell))}</{kind}>" for cell, mark in zip(cells, marks, strict=True))
        return f"<tr>{''.join(texts)}</tr>"

    top = f"<caption>{_escape(caption)}</caption>" if caption else ""
    body = "".join(line("td", row) for row in rows)
    head = f"<thead>{line('th', header)}</thead>" if any(header) else ""
    return f'<div class="scroll"><table>{top}{head}<tbody>{body}</tbody></table></div>'


def key(entries: Mapping[str, str]) -> str:
    """Return a legend: what each color means."""
    spans = (f'<span><i style="background:{_escape(c)}"></i>{_escape(text)}</span>' for text, c in entries.items())
    return f'<p class="key">{"".join(spans)}</p>'


def distribution(
    title: str,
    values: Sequence[float],
    mean: float,
    interval: tuple[float, float],
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> str:
    """Return a plot with a point per value, and the mean with its interval beneath; nan is left out.

    Parameters
    ----------
    values, mean, interval : in the same unit.
    bounds : what values are possible; the axis ends there.
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return f"<figure><figcaption>{_escape(title)}: no defined value</figcaption></figure>"
    width, height, left, right = 320, 112, 14, 306
    ends = [end for end in interval if math.isfinite(end)]
    ticks = nice_ticks(min(*known, *ends, known[0]), max(*known, *ends, known[0]))
    ticks = [tick for tick in ticks if bounds[0] <= tick <= bounds[1]]
    at = _scale(ticks[0], ticks[-1], left, right)
    shapes = [_axis(ticks, at, 88)]
    for place, stacked in _stacked(known, at):
        shapes.append(
            f'<circle cx="{place:.1f}" cy="{58 - 6 * stacked:.1f}" r="3.2" style="fill:{BLUE}" opacity=".65"/>'
        )
    if len(ends) == 2:
        low, high = (at(end) for end in interval)
        shapes.append(f'<path d="M{low:.1f} 72H{high:.1f}" style="stroke:{ORANGE}" stroke-width="3"/>')
    shapes.append(f'<circle cx="{at(mean):.1f}" cy="72" r="4.5" fill="{ORANGE}"/>')
    return _figure(title, width, height, shapes)


def lines(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, mark: float | None = None
) -> str:
    """Return a plot of curves (x, y) over whole numbers x, with a legend; points that are not finite are left out.

    Parameters
    ----------
    mark : x that a dashed line points out.
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in series.items()
    }
    known = [point for points in finite.values() for point in points]
    if not known:
        return f"<figure><figcaption>{_escape(title)}: no values</figcaption></figure>"
    left, right, width, height = 60, 470, 480, 250
    first, last = min(x for x, _ in known), max(x for x, _ in known)
    y_ticks = nice_ticks(min(y for _, y in known), max(y for _, y in known))
    across, up = _scale(first, max(last, first + 1), left, right), _scale(y_ticks[0], y_ticks[-1], 205, 12)
    x_ticks = [tick for tick in nice_ticks(first, last, about=6, smallest_step=1) if first <= tick <= last]
    shapes = [_axis(x_ticks, across, 210), f'<path d="M{left} 210H{right}" class="axis"/>']
    shapes.append(f'<text x="{(left + right) / 2}" y="246" text-anchor="middle">{_escape(x_label)}</text>')
    for tick in y_ticks:
        shapes.append(f'<path d="M{left} {up(tick):.1f}H{right}" class="rule"/>')
        shapes.append(f'<text x="{left - 5}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    if mark is not None:
        shapes.append(f'<path d="M{across(mark):.1f} 12V210" class="axis" stroke-dasharray="3 3"/>')
    colors = {}
    for number, (name, points) in enumerate(finite.items()):
        colors[name], dashes = SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)]
        if points:
            path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
            line = f"fill:none;stroke:{colors[name]};stroke-width:1.8;stroke-dasharray:{dashes}"
            shapes.append(f'<polyline points="{path}" style="{line}"/>')
            x, y = path.split(" ")[-1].split(",")
            shapes.append(f'<circle cx="{x}" cy="{y}" r="2.6" style="fill:{colors[name]}"/>')
    return _figure(title, width, height, shapes, key(colors) if len(colors) > 1 else "")


def matrix(names: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Return a confusion matrix: pixels, and their share of the true class (row), shaded by the share."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    head = "".join(f'<th class="number">{_escape(name)}</th>' for name in names)
    body = []
    for name, row, row_shares in zip(names, counts, shares, strict=True):
        cells = "".join(
            f'<td class="number" style="background:rgba(0,114,178,{share:.3f});'
            f'color:{"#fff" if share > 0.55 else "inherit"}">'
            f"{share:.1%}<br><small>{count:,}</small></td>"
            for count, share in zip(row.tolist(), row_shares.tolist(), strict=True)
        )
        body.append(f"<tr><th>{_escape(name)}</th>{cells}</tr>")
    return (
        f'<div class="scroll"><table><caption>Pixels: truth in rows, prediction in columns</caption>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def gallery(pictures: Sequence[Picture]) -> str:
    """Return pictures side by side, each with a slider that fades from one of its layers to the next."""
    return f'<div class="gallery">{"".join(_slider(picture) for picture in pictures)}</div>'


def strips(pictures: Sequence[Picture]) -> str:
    """Return pictures below each other, the layers of each side by side."""
    return "".join(_strip(picture) for picture in pictures)


def _strip(picture: Picture) -> str:
    layers = "".join(
        f'<div><img alt="{_escape(name)}" src="{data_uri(pixels)}">{_escape(name)}</div>'
        for name, pixels in picture.layers
    )
    title = f"<figcaption><b>{_escape(picture.title)}</b>: {_escape(picture.caption)}</figcaption>"
    return f'<figure class="strip">{title}<div>{layers}</div></figure>'


def _slider(picture: Picture) -> str:
    images = "".join(f'<img alt="{_escape(name)}" src="{data_uri(pixels)}">' for name, pixels in picture.layers)
    names = "".join(f'<button type="button">{_escape(name)}</button>' for name, _ in picture.layers)
    last = len(picture.layers) - 1
    return (
        f'<figure class="slider"><div class="stack">{images}</div>'
        f'<input type="range" min="0" max="{last}" step="0.02" value="{last}" aria-label="{_escape(picture.title)}">'
        f'<div class="names">{names}</div>'
        f"<figcaption><b>{_escape(picture.title)}</b><br>{_escape(picture.caption)}</figcaption></figure>"
    )


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Return a picture as a PNG that stands in the page itself."""
    from PIL import Image

    if pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():  # gray, which takes a third
        pixels = pixels[:, :, 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def nice_ticks(low: float, high: float, about: int = 4, smallest_step: float = 0.0) -> list[float]:
    """Return round numbers, evenly spaced, of which the first is at most `low` and the last at least `high`."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # equal, but for the last digits of a mean
        spread = smallest_step or abs(low) * 0.05 or 0.05
        low, high = low - spread, high + spread
    rough = max((high - low) / about, smallest_step)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    """Return the map from data to pixels of the drawing."""
    factor = (end - start) / (high - low)
    return lambda value: start + (value - low) * factor


def _axis(ticks: Sequence[float], at: Scale, y: float) -> str:
    marks = "".join(
        f'<path d="M{at(tick):.1f} {y}v4" class="axis"/>'
        f'<text x="{at(tick):.1f}" y="{y + 16}" text-anchor="middle">{tick:g}</text>'
        for tick in ticks
    )
    return f'<path d="M{at(ticks[0]):.1f} {y}H{at(ticks[-1]):.1f}" class="axis"/>{marks}'


def _stacked(values: Sequence[float], at: Scale) -> list[tuple[float, float]]:
    """Return where each point stands: across, and how far up the pile of those near it (at most eight high)."""
    places: list[tuple[float, float]] = []
    heights: dict[int, int] = {}
    piles: dict[int, int] = {}
    for value in sorted(values):
        column = round(at(value) / 6)
        piles[column] = piles.get(column, 0) + 1
    for value in sorted(values):
        column = round(at(value) / 6)
        heights[column] = heights.get(column, -1) + 1
        squeeze = min(1.0, 8 / piles[column])
        places.append((at(value), heights[column] * squeeze))
    return places


def _figure(title: str, width: int, height: int, shapes: Sequence[str], legend: str = "") -> str:
    return (
        f'<figure><figcaption>{_escape(title)}</figcaption>{legend}<svg width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{_escape(title)}" '
        f'font-family="inherit" font-size="12">{"".join(shapes)}</svg></figure>'
    )


def _text(cell: str | float | int) -> str:
    if isinstance(cell, float):
        return "undefined" if math.isnan(cell) else f"{cell:.4f}"
    return str(cell)


def _escape(text: str) -> str:
    """Return text safe in HTML; bytes of a file name that are no characters are shown as escapes."""
    shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return html.escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown))

"""From masks to labels and back, and what is told from the values of all masks."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetcli.dataset.detection import detect_coding
from unetcli.dataset.labels import IGNORE, LabelCoding, unpacked
from unetcli.dataset.maskvalues import MaskValues, count_values
from unetcli.errors import InputError, ModelFileError, Problems, UnetError, UnetWarning, UsageError

RNG = np.random.default_rng(0)


def values_of(*masks: np.ndarray, **more: object) -> list[MaskValues]:
    return [count_values(mask, Path(f"m{number}.png"), **more) for number, mask in enumerate(masks)]  # type: ignore[arg-type]


def speckled(*values: int, dtype: type = np.uint8, side: int = 24) -> np.ndarray:
    """Return a mask in which every value lies in many pieces."""
    return np.array(values, dtype)[RNG.integers(0, len(values), (side, side))]


def cells(count: int, dtype: type = np.uint16, side: int = 48) -> np.ndarray:
    """Return an instance mask with ids 1 to count, each a square of its own."""
    mask = np.zeros((side, side), dtype)
    for number in range(count):
        y, x = divmod(number, side // 6)
        mask[6 * y + 1 : 6 * y + 5, 6 * x + 1 : 6 * x + 5] = number + 1
    return mask


def test_zero_one_and_zero_255_copies_differ_only_in_their_values() -> None:
    mask = speckled(0, 1)
    first = detect_coding(values_of(mask, mask[::-1]))
    second = detect_coding(values_of(mask * 255, mask[::-1] * 255))
    assert (first.values, second.values) == ((0, 1), (0, 255))
    assert (first.task, first.classes) == (second.task, second.classes) == ("semantic", ("background", "foreground"))
    np.testing.assert_array_equal(first.decode(mask), second.decode(mask * 255))


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (speckled(0, 1).astype(bool), (0, 1)),
        (speckled(0, 1).astype(np.float32), (0, 1)),
        (speckled(0, 5, 9, dtype=np.int16), (0, 5, 9)),
        (speckled(0, 128, 255), (0, 128, 255)),
        (speckled(0, 70000, dtype=np.uint32), (0, 70000)),
        (np.repeat(speckled(0, 255)[:, :, None], 3, axis=2), (0, 255)),
        (speckled(1, 2), (1, 2)),
    ],
    ids=["bool", "float", "signed gaps", "three grays", "32 bits", "gray RGB", "no zero"],
)
def test_values_become_classes_and_come_back(mask: np.ndarray, values: tuple[int, ...]) -> None:
    coding = detect_coding(values_of(mask, mask[::-1]))
    assert coding.values == values
    labels = coding.decode(mask)
    assert labels.dtype == np.int32
    assert labels.shape == mask.shape[:2]
    encoded = coding.encode(labels)
    assert encoded.dtype == np.min_scalar_type(max(values))
    np.testing.assert_array_equal(encoded, mask if mask.ndim == 2 else mask[:, :, 0])


def test_colors_become_classes_with_black_as_background() -> None:
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    indices = RNG.integers(0, 3, (20, 20))
    mask = colors[indices]
    coding = detect_coding(values_of(mask))
    assert (coding.kind, coding.opened_as) == ("colors", "mask colors")
    assert coding.classes == ("background", "#0000ff", "#ff0000")
    written = coding.encode(coding.decode(mask))
    assert written.dtype == np.uint8
    np.testing.assert_array_equal(np.array(coding.colormap, np.uint8)[written], mask)


def test_without_black_the_most_frequent_color_is_background() -> None:
    mask = np.full((20, 20, 3), 255, np.uint8)
    mask[::4, ::4] = (255, 0, 0)
    assert detect_coding(values_of(mask)).values == (0xFFFFFF, 0xFF0000)


def test_palettes_that_agree_are_read_as_indices_and_kept_for_writing() -> None:
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    mask = speckled(0, 1, 2)
    coding = detect_coding(values_of(mask, mask.T, colormap=palette))
    assert (coding.kind, coding.opened_as, coding.values, coding.palette) == ("values", "indices", (0, 1, 2), palette)
    assert coding.colormap == palette


def test_palettes_that_contradict_each_other_are_read_as_colors() -> None:
    mask = speckled(0, 1, 2)
    first = count_values(mask, Path("a.png"), colormap=((0, 0, 0), (255, 0, 0), (0, 255, 0)))
    second = count_values(mask, Path("b.png"), colormap=((0, 0, 0), (0, 255, 0), (255, 0, 0)))
    coding = detect_coding([first, second])
    assert coding.kind == "colors"
    assert coding.values == (0, 0x00FF00, 0xFF0000)


def test_instances_are_told_from_classes() -> None:
    assert detect_coding(values_of(cells(12), cells(7), cells(9))).task == "instances"
    assert detect_coding(values_of(cells(30))).task == "instances"
    semantic = np.zeros((30, 30), np.uint8)
    semantic[5:25, 5:25] = 128
    semantic[10:20, 10:20] = 255  # nucleus and cytoplasm: one piece each, but the same values everywhere
    assert detect_coding(values_of(semantic, semantic.T, semantic[::-1])).task == "semantic"


@pytest.mark.parametrize("masks", [[cells(4)], [cells(2), cells(3)]], ids=["one mask", "few ids"])
def test_what_could_be_either_is_not_guessed(masks: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match=f"max {masks[-1].max()}") as error:
        detect_coding(values_of(*masks))
    assert "--task" in str(error.value.hint)
    for task in ("semantic", "instances"):
        assert detect_coding(values_of(*masks), task).task == task


@pytest.mark.parametrize("counts", [(12, 15, 9), (5, 6, 8)])
def test_ids_of_which_many_lie_in_pieces_are_not_guessed(counts: tuple[int, ...]) -> None:
    masks = []
    for count in counts:
        mask = np.pad(cells(count), ((0, 0), (0, 8)))
        for number in range(1, count + 1, 4):
            mask[4 * number // 4, -2] = number  # a second piece for every fourth
        masks.append(mask)
    with pytest.raises(InputError, match="classes or instances"):
        detect_coding(values_of(*masks))


def test_pieces_touch_at_corners() -> None:
    assert values_of(np.eye(6, dtype=np.uint8))[0].pieces.tolist() == [0, 1]
    assert values_of(np.eye(6, dtype=np.uint8)[::2])[0].pieces.tolist() == [0, 3]


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_pieces_of_large_masks_are_counted_where_something_is_drawn(corner: tuple[int, int]) -> None:
    masks = []
    for count in (12, 9):
        y, x = (2900 * place for place in corner)
        masks.append(np.zeros((3000, 3000), np.uint16))
        masks[-1][y : y + 48, x : x + 48] = cells(count)
    assert detect_coding(values_of(*masks)).task == "instances"
    assert detect_coding(values_of(*masks), "instances").task == "instances"


def test_what_is_ignored_hides_no_objects_of_large_masks() -> None:
    masks = [np.pad(cells(count, side=64), (0, 4000), constant_values=255) for count in (40, 50)]
    assert detect_coding(values_of(*masks), ignore=255).task == "instances"


def test_where_no_piece_was_looked_at_nothing_speaks_against_a_task() -> None:
    numbers, counts = np.arange(6), np.full(6, 100)
    masks = [MaskValues(Path("m.tif"), numbers[:ids], counts[:ids], np.zeros(ids, np.int64)) for ids in (6, 5)]
    for task in ("semantic", "instances"):
        assert detect_coding(masks, task).task == task
    assert detect_coding(masks, usual="instances").task == "instances"
    with pytest.raises(InputError, match="classes or instances") as error:
        detect_coding(masks)
    assert "--task" in str(error.value.hint)


def test_a_task_against_the_evidence_is_refused() -> None:
    with pytest.raises(InputError, match="max 12") as error:
        detect_coding(values_of(cells(12), cells(7)), "semantic")
    assert "--task instances" in str(error.value.hint)
    with pytest.raises(InputError, match="pieces") as error:
        detect_coding(values_of(speckled(0, 255)), "instances")
    assert "--task semantic" in str(error.value.hint)
    with pytest.raises(UsageError):
        detect_coding(values_of(cells(2)), "panoptic")


def test_blurred_masks_are_refused_all_of_them() -> None:
    import cv2

    sharp = (np.kron(cells(20), np.ones((8, 8))) > 0).astype(np.uint8) * 255
    smooth = cv2.GaussianBlur(sharp, (0, 0), 1.0)
    with pytest.raises(Problems) as error:
        detect_coding(values_of(smooth, smooth.T, sharp))
    assert [str(problem.path) for problem in error.value.problems] == ["m0.png", "m1.png"]
    assert all("lossless" in problem.message for problem in error.value.problems)
    with pytest.raises(InputError, match="lossless"):
        detect_coding(values_of(cv2.GaussianBlur(sharp, (0, 0), 8.0)))
    blocky = np.array([0, 1, 255], np.uint8)[RNG.integers(0, 3, (16, 16))]
    with pytest.raises(InputError, match=r"m0\.jpg.*has 3 values"):
        detect_coding([count_values(blocky, Path("m0.jpg"), lossy=True)])
    assert detect_coding([count_values(speckled(0, 255), Path("m0.jpg"), lossy=True)]).values == (0, 255)


def with_rare(*values: int) -> np.ndarray:
    """Return a mask of two common values, the first given, with rows of specks of the others."""
    mask = np.zeros((90, 60), np.uint8)
    mask[:40] = values[0]
    for number, value in enumerate(values[1:]):
        mask[45 + 3 * number, ::5] = value
    return mask


def test_real_classes_are_no_blur() -> None:
    grays = with_rare(36, 73, 109, 146, 182, 219, 255)
    assert len(detect_coding(values_of(grays, grays[::-1])).values) == 8
    colors = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128],
                       [128, 128, 128], [64, 0, 0], [192, 0, 0]], np.uint8)  # fmt: skip
    drawn = colors[with_rare(*range(1, 10))]
    assert len(detect_coding(values_of(drawn, drawn[::-1])).values) == 10


def test_what_was_said_to_be_classes_is_no_blur() -> None:
    ids = np.pad(with_rare(*range(5, 105, 7), 111), 2)  # next to each other, as blur leaves them, too
    masks = values_of(ids, ids[::-1])
    with pytest.raises(Problems, match="lossless") as error:
        detect_coding(masks)
    assert "--task semantic" in str(error.value.problems[0].hint)
    found = masks[0].values.tolist()
    assert detect_coding(masks, "semantic").values == tuple(found)
    names = [f"class {value}" for value in found]
    assert detect_coding(masks, classes=names).classes == tuple(names)
    assert detect_coding(masks, declared=list(zip(found, names, strict=True))).classes == tuple(names)
    with pytest.raises(Problems, match="lossless"):
        detect_coding(masks, classes=["background", "cell"])  # says that there are not so many
    lossy = values_of(ids, ids[::-1], lossy=True)
    with pytest.raises(Problems, match="lossless") as error:
        detect_coding(lossy, "semantic")
    assert "--task" not in str(error.value.problems[0].hint)


@pytest.mark.parametrize("color", [False, True], ids=["gray", "color"])
@pytest.mark.parametrize("scale", [2, 1 / 3, 5])
def test_resizing_with_smoothing_is_refused(scale: float, color: bool) -> None:
    import cv2

    y, x = np.mgrid[:300, :300]
    discs = (np.hypot(y % 60 - 30, x % 60 - 30) < 21).astype(np.uint8) * 255
    drawn = np.dstack([discs, discs // 2, discs * 0]) if color else discs
    smooth = cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else 1)
    with pytest.raises(InputError, match="lossless"):
        detect_coding(values_of(smooth))


def test_many_small_instances_are_not_taken_for_a_blurred_mask() -> None:
    masks = [np.pad(cells(count, side=64), 150) for count in (80, 90)]
    assert detect_coding(values_of(*masks)).task == "instances"


def test_negative_values_need_ignore() -> None:
    mask = speckled(-1, 0, 1, dtype=np.int8)
    with pytest.raises(InputError, match="-1") as error:
        detect_coding(values_of(mask))
    assert "--ignore -1" in str(error.value.hint)
    coding = detect_coding(values_of(mask), ignore=-1)
    np.testing.assert_array_equal(coding.decode(mask), mask)
    assert LabelCoding.from_json(json.loads(json.dumps(coding.to_json()))) == coding


def test_ignored_values_are_no_class_and_no_background() -> None:
    mask = speckled(0, 1, 255)
    coding = detect_coding(values_of(mask), ignore="255")
    assert coding.values == (0, 1)
    np.testing.assert_array_equal(coding.decode(mask) == IGNORE, mask == 255)
    np.testing.assert_array_equal(coding.encode(coding.decode(mask)), mask)
    with pytest.warns(UnetWarning, match="no mask has this value"):
        detect_coding(values_of(speckled(0, 1)), ignore=7)
    with pytest.raises(UsageError):
        detect_coding(values_of(mask), ignore="white")


def test_zero_may_be_ignored_and_one_the_background_of_instances() -> None:
    masks = [cells(count) + 1 for count in (9, 12)]
    masks[0][:2] = 0
    coding = detect_coding(values_of(*masks), ignore=0)
    assert (coding.task, coding.values) == ("instances", (1,))
    labels = coding.decode(masks[0])
    assert labels.min() == IGNORE
    assert labels.max() == 9
    np.testing.assert_array_equal(coding.encode(labels), masks[0])


def test_masks_without_foreground() -> None:
    empty = np.zeros((8, 8), np.uint8)
    with pytest.raises(InputError, match="no foreground in 12 masks"):
        detect_coding(values_of(*[empty] * 12))
    assert detect_coding(values_of(empty, speckled(0, 255))).values == (0, 255)
    with pytest.raises(InputError):
        detect_coding([])


def test_masks_of_nothing_but_foreground_are_a_warning() -> None:
    with pytest.warns(UnetWarning, match="2 of 2 masks have no background"):
        coding = detect_coding(values_of(*[np.full((8, 8), 255, np.uint8)] * 2))
    assert coding.values == (0, 255)


def test_a_class_that_only_one_mask_has_is_named_with_its_share() -> None:
    usual = speckled(0, 1, 2)
    odd = usual.copy()
    odd[0, :6] = 7
    with pytest.warns(UnetWarning, match=r"m2\.png.*value 7.* 1 %"):
        coding = detect_coding(values_of(usual, usual.T, odd))
    assert coding.values == (0, 1, 2, 7)


def test_class_names_must_match_in_number() -> None:
    masks = values_of(speckled(0, 1, 2, 3))
    assert detect_coding(masks, classes=["sky", "a", "b", "c"]).classes == ("sky", "a", "b", "c")
    with pytest.raises(UsageError, match=r"2 classes.*4 values"):
        detect_coding(masks, classes=["a", "b"])
    with pytest.raises(UsageError, match="must differ"):
        detect_coding(masks, classes=["a", "b", "b", "c"])


def test_declared_classes_are_taken_even_where_no_mask_has_one() -> None:
    declared = [(0, "background"), (1, "cell"), (2, "debris")]
    coding = detect_coding(values_of(speckled(0, 1)), declared=declared)
    assert (coding.values, coding.classes) == ((0, 1, 2), ("background", "cell", "debris"))
    with pytest.raises(InputError, match="does not list: 5"):
        detect_coding(values_of(speckled(0, 1, 5)), declared=declared)


def test_values_unknown_to_the_coding_are_counted() -> None:
    coding = LabelCoding("semantic", (0, 255), ("background", "foreground"))
    mask = speckled(0, 255)
    mask[0, :5] = 7
    with pytest.raises(InputError, match=r"x\.png: 5 pixels.*7"):
        coding.decode(mask, Path("x.png"))
    with pytest.raises(InputError, match="5 pixels"):
        coding.decode(mask.astype(np.int64))


def test_fractions_and_channels_are_refused() -> None:
    with pytest.raises(InputError, match=r"1 pixels are no whole numbers, such as 0\.5"):
        values_of(np.array([[0.0, 0.5]]))
    with pytest.raises(InputError, match="no whole numbers"):
        values_of(np.array([[0.0, np.nan]]))
    with pytest.raises(InputError, match="4 channels"):
        values_of(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match="more than 8 bits"):
        values_of(np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * 100)


def test_instances_are_written_in_the_smallest_type() -> None:
    coding = LabelCoding("instances", (0,), ("background", "object"))
    assert coding.encode(np.array([[0, 255]])).dtype == np.uint8
    assert coding.encode(np.array([[0, 256]])).dtype == np.uint16
    assert coding.encode(np.array([[0, 65536]])).dtype == np.uint32
    assert coding.encode(np.array([[0, 3]]), largest=70000).dtype == np.uint32


def test_instances_drawn_in_colors_are_told_apart() -> None:
    drawn = []
    for count in (12, 9):
        ids = cells(count)
        colors = np.vstack([[0, 0, 0], RNG.permutation(200)[:count, None] + [[20, 50, 1]]]).astype(np.uint8)
        drawn.append(colors[ids])
    coding = detect_coding(values_of(*drawn))
    assert (coding.task, coding.kind) == ("instances", "colors")
    labels = coding.decode(drawn[0])
    assert len(np.unique(labels)) == 13
    np.testing.assert_array_equal(labels > 0, cells(12) > 0)
    white = [np.where(colors.any(axis=2, keepdims=True), colors, 255).astype(np.uint8) for colors in drawn]
    on_white = detect_coding(values_of(*white))
    np.testing.assert_array_equal(on_white.decode(white[0]) > 0, cells(12) > 0)
    predicted = coding.encode(cells(5).astype(np.int32))
    np.testing.assert_array_equal(coding.decode(predicted), cells(5))  # what was written can be read


@st.composite
def codings(draw: st.DrawFn) -> LabelCoding:
    kind = draw(st.sampled_from(["values", "colors"]))
    highest = 0xFFFFFF if kind == "colors" else draw(st.sampled_from([20, 255, 65535, 2**31 - 1]))
    values = draw(st.lists(st.integers(0, highest), min_size=3, max_size=8, unique=True))
    ignore = values.pop() if draw(st.booleans()) else None
    if draw(st.booleans()):
        background = min(values) if kind == "values" else values[0]
        return LabelCoding("instances", (background,), ("background", "object"), None, kind)
    palette = None
    if kind == "values" and highest <= 255 and draw(st.booleans()):
        palette = tuple((number, 0, 255 - number) for number in range(256))
    names = tuple(f"class {value}" for value in values)
    return LabelCoding("semantic", tuple(values), names, ignore, kind, palette)


@given(codings(), st.integers(0, 2**32 - 1))
def test_decoding_what_was_encoded_gives_the_labels(coding: LabelCoding, seed: int) -> None:
    highest = len(coding.values) if coding.task == "semantic" else 300
    lowest = 0 if coding.ignore is None else IGNORE
    labels = np.random.default_rng(seed).integers(lowest, highest, (5, 7)).astype(np.int32)
    written = coding.encode(labels)
    assert written.dtype.kind == "u"
    if coding.kind == "colors" and coding.colormap is not None:
        written = np.array(coding.colormap, np.uint8)[written]  # as a palette file is shown
    np.testing.assert_array_equal(coding.decode(written), labels)
    assert LabelCoding.from_json(json.loads(json.dumps(coding.to_json()))) == coding


def kept(coding: LabelCoding) -> LabelCoding:
    """Return a coding as it comes out of a model file."""
    return LabelCoding.from_json(json.loads(json.dumps(coding.to_json())))


PALETTE = ((0, 0, 0), (255, 0, 0), (0, 255, 0))


@st.composite
def masks_to_detect(draw: st.DrawFn) -> list[MaskValues]:
    """Return masks of a data set in one of the forms in which files come."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = draw(st.lists(st.integers(0, draw(st.sampled_from([2, 255, 70000]))), min_size=1, max_size=12))
    lowest = draw(st.sampled_from([0, 0, -1]))
    drawn = [
        np.array([lowest, *values], np.int64)[generator.integers(0, len(values) + 1, (6, 6))]
        for _ in range(draw(st.integers(1, 3)))
    ]
    form = draw(st.sampled_from(["numbers", "palette", "long palette", "colors"]))
    if form == "colors":
        return values_of(*(np.dstack([mask % 256, mask % 7, mask % 3]).astype(np.uint8) for mask in drawn))
    colormap = {"palette": PALETTE, "long palette": PALETTE * 1000}.get(form)
    if colormap is not None:
        drawn = [mask.clip(0).astype(np.uint16) for mask in drawn]
    return values_of(*drawn, colormap=colormap)


@pytest.mark.filterwarnings("ignore::unetcli.errors.UnetWarning")
@settings(max_examples=300)
@given(
    masks_to_detect(),
    st.sampled_from(["auto", "semantic", "instances"]),
    st.sampled_from([None, 0, 1, 2, 255, -1, -(2**40), 2**31, "#000000", "#010101", "#1ffffff"]),
    st.none() | st.lists(st.sampled_from(["background", "cell", "", "n" * 201, "c"]), min_size=2, max_size=4),
    st.none() | st.lists(st.tuples(st.integers(0, 2) | st.just(2**31), st.sampled_from("ab") | st.just("n" * 201))),
)
def test_every_coding_that_is_detected_can_be_kept_in_a_model(
    masks: list[MaskValues],
    task: str,
    ignore: int | str | None,
    classes: list[str] | None,
    declared: list[tuple[int, str]] | None,
) -> None:
    try:
        coding = detect_coding(masks, task, ignore=ignore, classes=classes, declared=declared)
    except UnetError:
        return
    assert kept(coding) == coding


def test_what_is_ignored_need_not_be_in_the_palette() -> None:
    for masks in (values_of(speckled(0, 1, 2), colormap=PALETTE), values_of(speckled(0, 1, 2, 255), colormap=PALETTE)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnetWarning)
            coding = detect_coding(masks, ignore=255)
        assert coding.palette is not None
        assert coding.palette[:3] == PALETTE
        assert kept(coding) == coding


def test_palettes_may_differ_in_what_is_ignored() -> None:
    mask = speckled(0, 1, 255)
    masks = [*values_of(mask, colormap=PALETTE), *values_of(mask.T, colormap=(*PALETTE, *[(9, 9, 9)] * 253))]
    coding = detect_coding(masks, ignore="255")
    assert (coding.kind, coding.values, coding.ignore) == ("values", (0, 1), 255)
    assert detect_coding(masks).kind == "colors"


def test_indices_beyond_the_palette_are_black() -> None:
    mask = speckled(0, 1, 2, 5)
    coding = detect_coding(values_of(mask, mask.T, colormap=PALETTE))
    assert coding.values == (0, 1, 2, 5)
    assert coding.palette == (*PALETTE, *[(0, 0, 0)] * 3)
    turned = values_of(mask, colormap=PALETTE[:1] + PALETTE[:0:-1])
    assert detect_coding([*values_of(mask, colormap=PALETTE), *turned]).values == (0, 0x00FF00, 0xFF0000)


@pytest.mark.parametrize("ignore", ["#1ffffff", "256", "-1"])
def test_a_color_that_cannot_be_is_not_ignored(ignore: str) -> None:
    mask = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)[speckled(0, 1)]
    with pytest.raises(UsageError, match=ignore):
        detect_coding(values_of(mask), ignore=ignore)


def test_the_only_background_cannot_be_ignored() -> None:
    with pytest.raises(InputError, match="0 is ignored") as error:
        detect_coding(values_of(speckled(0, 255)), ignore=0)
    assert "--ignore" in str(error.value.hint)
    assert detect_coding(values_of(speckled(0, 1, 255)), ignore=0).values == (1, 255)


def test_names_that_a_model_cannot_keep() -> None:
    masks = values_of(speckled(0, 1, 2))
    with pytest.raises(UsageError, match=r"nnn\.\.\. has 201 characters"):
        detect_coding(masks, classes=["a", "b", "n" * 201])
    with pytest.raises(InputError, match=r"nnn\.\.\. has 201 characters"):
        detect_coding(masks, declared=[(0, "background"), (1, "a"), (2, "n" * 201)])
    with pytest.raises(InputError, match="cell and nucleus are both 1"):
        detect_coding(values_of(speckled(0, 1)), declared=[(0, "background"), (1, "cell"), (1, "nucleus")])
    with pytest.raises(InputError, match="300 classes"):
        detect_coding(masks, declared=[(value, f"class {value}") for value in range(300)])


@pytest.mark.parametrize(
    "change",
    [
        {"task": "panoptic"},
        {"values": []},
        {"values": [0, 0]},
        {"values": [0, True]},
        {"values": [0, -1]},
        {"values": [0, 2**40]},
        {"values": "01"},
        {"values": list(range(300))},
        {"classes": ["one"]},
        {"classes": ["same", "same"]},
        {"classes": ["a", "b" * 1000]},
        {"classes": [1, 2]},
        {"ignore": 1},
        {"ignore": "1"},
        {"kind": "sounds"},
        {"palette": [[0, 0, 0]]},
        {"palette": [[0, 0, 0], [1, 2, 300]]},
        {"palette": "colors"},
        {"more": 1},
        {"task": "instances"},
    ],
    ids=str,
)
def test_a_damaged_coding_is_refused(change: dict[str, object]) -> None:
    good = LabelCoding("semantic", (0, 1), ("background", "foreground")).to_json()
    assert LabelCoding.from_json(good).values == (0, 1)
    with pytest.raises(ModelFileError):
        LabelCoding.from_json({**good, **change})
    with pytest.raises(ModelFileError):
        LabelCoding.from_json({name: value for name, value in good.items() if name != "kind"})


def test_one_line_says_the_coding() -> None:
    gaps = LabelCoding("semantic", (0, 5, 9), ("background", "5", "9"), ignore=255)
    assert gaps.describe() == "3 classes: 0 background, 5 5, 9 9; 255 ignored"
    assert unpacked(0xFF8001) == (255, 128, 1)
    assert LabelCoding("instances", (0,), ("background", "object")).describe().startswith("instances: an id per object")

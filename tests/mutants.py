"""Tests of the tests: planted defects, each of which must turn a named test red: ``python tests/mutants.py [WORD]``.

The package and its tests are copied to a temporary folder. There the named tests must pass; then one defect after the
other is planted, and its test must fail. WORD plants only those whose name contains it.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("unetcli", "tests", "pyproject.toml")


@dataclass(frozen=True)
class Defect:
    """A change for the worse.

    Parameters
    ----------
    file : below `unetcli`.
    text, replacement : what stands there, exactly once, and what is put in its place.
    test : the pytest node id, below `tests`, that must fail; it takes seconds.
    """

    name: str
    file: str
    text: str
    replacement: str
    test: str


DEFECTS = (
    # geometry and tiles
    Defect("margin one pixel too small", "models/receptive_field.py", "margin=(size - rows.count) // 2,",
           "margin=(size - rows.count) // 2 - 1,", "models/test_unet.py::test_margins_follow_their_formulas"),
    Defect("margin one pixel too large", "models/receptive_field.py", "margin=(size - rows.count) // 2,",
           "margin=(size - rows.count) // 2 + 1,", "models/test_unet.py::test_geometry_is_true_for_all_legal_sizes"),
    Defect("read region one pixel off", "inference/tiling.py",
           "top, left = write.top - geometry.border, write.left - geometry.border",
           "top, left = write.top - geometry.border + 1, write.left - geometry.border",
           "inference/test_predict.py::test_large_images"),
    Defect("core off the step", "geometry.py", "(legal - 2 * self.border) // self.step * self.step)",
           "legal - 2 * self.border)",
           "test_geometry.py::test_a_572_tile_writes_384_because_388_is_not_a_multiple_of_16"),
    Defect("last row of tiles dropped", "inference/tiling.py",
           "for top in range(self.top, self.height, self.core_height):",
           "for top in range(self.top, max(self.top + 1, self.height - self.core_height + 1), self.core_height):",
           "inference/test_tiling.py::test_write_regions_partition_the_image"),
    Defect("edge pixel repeated", "images/mirror.py",
           "np.arange(start, stop, dtype=np.intp) % period\n    return np.minimum(positions, period - positions)",
           "np.arange(start, stop, dtype=np.intp) % (period + 2)\n"
           "    return np.minimum(positions, period + 1 - positions)",
           "inference/test_predict.py::test_mirroring_equals_reflection"),
    Defect("selected pages at the place of the first page", "images/reader.py", "info = _beginning_at(info, pages[0])",
           "info = _beginning_at(info, 0)",
           "inference/test_infer_command.py::test_selected_pages_lie_where_they_lie"),
    Defect("a volume that was replaced is read on", "images/volumes.py",
           "found.st_ino, found.st_size, found.st_mtime_ns", "0, 0, 0",
           "dataset/test_medical_folders.py::test_a_volume_that_another_one_replaced_is_opened_anew"),
    Defect("context of padded networks kept", "inference/predict.py", "cut_off = geometry_of(network).context",
           "cut_off = geometry_of(network).context // 2",
           "inference/test_predict.py::test_padded_networks_are_cut_where_they_are_exact"),
    Defect("skip connection cropped at the corner", "models/blocks.py",
           "top = (features.shape[-2] - like.shape[-2]) // 2", "top = 0",
           "models/test_unet.py::test_the_skip_lies_over_the_upsampled_map_pixel_for_pixel"),
    # inference
    Defect("threshold reached instead of exceeded", "inference/predict.py", "probabilities[:, 1] > self.threshold",
           "probabilities[:, 1] >= self.threshold", "inference/test_predict.py::test_the_threshold_must_be_exceeded"),
    Defect("turn not undone", "inference/predict.py",
           "torch.rot90(tiles.flip(-1) if mirrored else tiles, -quarters, (-2, -1))",
           "torch.rot90(tiles.flip(-1) if mirrored else tiles, quarters, (-2, -1))",
           "inference/test_predict.py::test_turns_are_averaged_without_seams"),
    Defect("pages in another order", "inference/infer.py", "pixels = image.page(page)",
           "pixels = image.page(image.info.pages - 1 - page)",
           "inference/test_segmenter.py::test_pages_keep_their_order_and_share_a_normalization"),
    Defect("normalization per page", "inference/infer.py", "pixels = image.page(page)",
           "pixels = image.page(page)\n"
           "                from unetcli.images import intensity_range\n"
           "                prepare = partial(normalize, intensity=intensity_range([pixels[:, :]]))",
           "inference/test_segmenter.py::test_pages_keep_their_order_and_share_a_normalization"),
    Defect("ridges not given back", "inference/instances.py", "give_back_ridges:\n", "give_back_ridges and False:\n",
           "inference/test_instances.py::test_ridges_go_to_the_nearest_object"),
    Defect("objects that meet at a corner joined", "inference/instances.py", "ndimage.label(classes == ",
           "ndimage.label(structure=np.ones((3, 3)), input=classes == ",
           "inference/test_instances.py::test_objects_that_meet_at_a_corner_are_two"),
    Defect("objects of just the least size left out", "inference/instances.py", ">= max(1, self.min_size)",
           "> max(0, self.min_size)", "inference/test_instances.py::test_small_objects_are_left_out"),
    Defect("objects end with their band", "inference/instances.py",
           "joins = np.concatenate([np.zeros((2, 0), np.int32), *self.joins], axis=1)",
           "joins = np.zeros((2, 0), np.int32)",
           "inference/test_instances_in_bands.py::test_a_spiral_across_bands_is_one_object"),
    Defect("coding not written back", "dataset/labels.py", "written = np.array([*self._written, 0], dtype=np.int64)",
           "written = np.array([*range(len(self._written)), 0], dtype=np.int64)",
           "dataset/test_labels.py::test_values_become_classes_and_come_back"),
    Defect("large masks looked at where nothing is drawn", "dataset/maskvalues.py",
           "max(_parts(numbers), key=_lines_drawn)", "next(_parts(numbers))",
           "dataset/test_labels.py::test_pieces_of_large_masks_are_counted_where_something_is_drawn"),
    Defect("a stack in a list means its last page", "training/split.py",
           "files[name].setdefault(pair.images[0], []).append(index)", "files[name][pair.images[0]] = [index]",
           "training/test_split.py::test_a_list_that_names_a_stack_holds_out_all_its_pages"),
    Defect("held-out pages in the normalization", "training/plan.py", "apart=sorted(others)", "apart=()",
           "training/test_plan.py::test_pages_that_are_held_out_do_not_take_part_in_the_normalization"),
    Defect("objects joined through ignored pixels", "evaluation/scoring.py",
           "connected(prediction & ~hidden)", "connected(prediction)",
           "evaluation/test_scoring.py::test_objects_end_where_pixels_are_ignored"),
    # images
    Defect("percentiles of the first page only", "images/normalization.py", "in enumerate(_sources(image)) if",
           "in enumerate(_sources(image)[:1]) if", "images/test_intensity.py::test_equal_to_sorting"),
    Defect("normalized values clipped", "images/normalization.py", "if pixels.dtype.itemsize > 1:\n"
           "        np.clip(values, -_LARGEST, _LARGEST, out=values)", "np.clip(values, 0, 1, out=values)",
           "images/test_intensity.py::test_low_becomes_0_and_high_1_without_clipping"),
    Defect("colors normalized apart", "images/normalization.py",
           "groups = [slice(0, channels)] if joint else",
           "joint = False\n    groups = [slice(0, channels)] if joint else",
           "images/test_intensity.py::test_colors_share_a_range_and_channels_do_not"),
    Defect("white-is-zero off by one", "images/tiff_colors.py", "highest = (1 << bits) - 1", "highest = 1 << bits",
           "images/test_image_round_trips.py::test_white_is_zero"),
    Defect("half a file left after an error", "images/atomic.py", "temporary.unlink()\n        raise",
           "pass\n        raise",
           "images/test_image_writing.py::test_an_error_in_the_block_leaves_the_old_file"),
    # training
    Defect("mask not warped", "dataset/augmentation.py", "region, local = _region(mask, positions[:, inner, inner])",
           "size = np.arange(self.output_size) - self.output_size // 2\n"
           "        straight = np.stack(np.meshgrid(*(np.rint(p.mean()) + size for p in positions), indexing='ij'))\n"
           "        region, local = _region(mask, straight)",
           "dataset/test_augmentation.py::TestTogether::test_image_and_labels_move_together"),
    Defect("displacements not scaled with the patch", "dataset/augmentation.py",
           "return elastic * patch_size / REFERENCE_PATCH", "return elastic",
           "dataset/test_augmentation.py::TestMap::test_never_folds"),
    Defect("every epoch the same patches", "dataset/augmentation.py", "spawn_key=(epoch, index)",
           "spawn_key=(index,)",
           "dataset/test_augmentation.py::TestDraws::test_are_distinct_across_workers_and_epochs_and_the_same_without"),
    Defect("weights ignored by the loss", "training/loss.py", "-(weights * chosen).sum()", "-chosen.sum()",
           "training/test_loop_parts.py::test_loss_equals_the_definition"),
    Defect("ignored pixels weighted", "dataset/weightmap.py", "weights[target < 0] = 0\n    return weights",
           "return weights", "dataset/test_weightmap.py::TestWeightMap::test_is_zero_on_ignore"),
    Defect("class balance inverted", "dataset/weightmap.py", "np.maximum(shares, smallest_share) / shares",
           "shares / np.maximum(shares, smallest_share)",
           "dataset/test_weightmap.py::TestClassBalance::test_is_the_inverse_frequency"),
    Defect("sigma not squared", "dataset/weightmap.py", "np.float32(2 * border_sigma**2)",
           "np.float32(2 * border_sigma)",
           "dataset/test_weightmap.py::TestBorderWeights::test_equal_one_distance_map_per_cell_on_discs"),
    Defect("wide borders on the background only", "dataset/weightmap.py",
           "cv2.GaussianBlur(borders, (0, 0), border_smoothing)", "borders",
           "dataset/test_weightmap.py::TestComponentBorders::test_spread_over_both_sides_of_a_wider_one"),
    Defect("no gap to the held-out region", "training/split.py", "held + strip", "held",
           "training/test_split.py::test_regions_share_no_labelled_pixel_and_keep_a_gap"),
    Defect("resumed epochs begun anew", "training/loop.py", "self.batch_size), skipped, None)",
           "self.batch_size), 0, None)", "training/test_state.py::test_resumed_is_uninterrupted"),
    Defect("every epoch the best", "training/loop.py", "(dice, -loss) > (best.dice, -best.validation_loss)", "True",
           "training/test_loop.py::test_patience"),
    Defect("any checksum accepted", "models/container.py", 'tensors_sha256(tensors) != header.get("sha256")',
           'header.get("sha256") is None', "models/test_modelfile.py::test_one_flipped_byte"),
    # evaluation
    Defect("dice of nothing is perfect", "metrics/overlap.py",
           "return 2 * counts.true_positive / total if total else math.nan",
           "return 2 * counts.true_positive / total if total else 1.0",
           "evaluation/test_scoring.py::test_empty_images_are_counted_apart"),
    Defect("split and merge exchanged", "metrics/partition.py",
           "return _part(parts.thinned, parts.thinned.truth)", "return _part(parts.thinned, parts.thinned.prediction)",
           "metrics/test_metric_oracles.py::test_hand_checked_merge_of_two_cells"),
    Defect("matches exceed the threshold", "metrics/instances.py",
           "able = ious > threshold if strict else ious >= threshold", "able = ious > threshold",
           "metrics/test_metric_twins.py::test_a_match_reaches_its_threshold"),
    Defect("ignored pixels scored", "evaluation/scoring.py", "hidden = page.truth < 0", "hidden = page.truth < -1",
           "evaluation/test_scoring.py::test_ignored_pixels_count_nowhere"),
    Defect("distances in pixels", "evaluation/scoring.py", "ignored=ignored, spacing=page.spacing", "ignored=ignored",
           "evaluation/test_scoring.py::test_distances_have_the_unit_of_the_pixels"),
    Defect("deviation of the population", "evaluation/statistics.py",
           "float(defined.std(ddof=1)) if defined.size > 1", "float(defined.std()) if defined.size > 1",
           "evaluation/test_statistics.py::test_a_small_set_by_hand"),
)  # fmt: skip


def planted(defect: Defect, root: Path = ROOT) -> str:
    """Return the file's text with the defect.

    Raises
    ------
    ValueError : the text to replace does not stand there exactly once.
    """
    content = (root / "unetcli" / defect.file).read_text(encoding="utf-8")
    found = content.count(defect.text)
    if found != 1:
        raise ValueError(f"{defect.name}: {defect.file} has {defect.text!r} {found} times, not once")
    return content.replace(defect.text, defect.replacement)


def run_tests(root: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run pytest in a copy; 0 says that all tests pass, 1 that some fail."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=600)


def main(word: str = "") -> int:
    """Plant the defects one by one, print what became of each, and return how many survived."""
    defects = [defect for defect in DEFECTS if word in defect.name]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, copy / name)
        tests = sorted({f"tests/{defect.test}" for defect in defects})
        began = time.monotonic()
        unharmed = run_tests(copy, tests)
        print(f"without a defect: {len(tests)} named tests in {time.monotonic() - began:.0f} s", flush=True)
        if unharmed.returncode:
            print(unharmed.stdout[-3000:], "the named tests must pass first", sep="\n")
            return len(defects)
        for defect in defects:
            place = copy / "unetcli" / defect.file
            good = place.read_text(encoding="utf-8")
            place.write_text(planted(defect, copy), encoding="utf-8")
            ran = run_tests(copy, [f"tests/{defect.test}"])
            place.write_text(good, encoding="utf-8")
            caught = ran.returncode == 1
            survived += not caught
            print(f"{'caught' if caught else 'SURVIVED'}: {defect.name} ({defect.test})", flush=True)
            if not caught:
                print(ran.stdout[-1500:], ran.stderr[-500:])
    print(f"{len(defects) - survived} of {len(defects)} defects caught in {time.monotonic() - began:.0f} s")
    return survived


if __name__ == "__main__":
    sys.exit(min(1, main(*sys.argv[1:2])))

"""Random variations of a training patch: one resampling of image and labels, then gray values (paper, section 3.1).

Shift, rotation, mirroring, scaling and the elastic deformation are composed into one map from patch pixels to image
positions, so nothing is interpolated twice. The image is read by cubic convolution (Keys, 1981), since a linear reading
would blur every patch, and what is predicted later is not blurred; labels take the nearest pixel. What lies outside the
image is mirrored (edge pixel not repeated), labels included. Only the region that the map needs is read.

albumentations carries the transforms. Its ``set_random_seed`` hands one seed to every transform, so that their draws
would be the same numbers; here all of them draw from one generator, seeded anew for each sample.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray
from scipy import ndimage

from unetcli.errors import UsageError
from unetcli.images import IntensityRange, normalize
from unetcli.images.mirror import Source, read_mirrored

cv2.setNumThreads(0)  # the loader's workers import this module: each is one thread, or they fight for the cores

REFERENCE_PATCH = 572  # section 3.1: displacements of 10 pixels belong to a patch of this size
CONTROL_POINTS = 3  # section 3.1: "a coarse 3 by 3 grid"
LARGEST_ELASTIC = 0.04 * REFERENCE_PATCH  # above, some deformations fold: a part of the image appears twice

Image = NDArray[np.float32]
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class AugmentationSettings:
    """How far a training patch may differ from the image.

    Parameters
    ----------
    elastic : standard deviation of the displacements in pixels, for a patch of 572; scaled with the patch.
    rotate : largest angle in degrees, to either side; 180 is any angle.
    shift : whether the sampler draws patch centres anywhere; otherwise they lie on the regular grid of patches.
    flip : whether patches are mirrored along either axis, each in half of the draws.
    scale : largest enlargement or reduction, as a fraction: 0.25 is from 1/1.25 to 1.25.
    intensity : strength of the gray-value variation, as a fraction of the normalized range (see `GrayValues`).

    Raises
    ------
    UsageError : a value outside its range.
    """

    elastic: float = 10.0
    rotate: float = 180.0
    shift: bool = True
    flip: bool = True
    scale: float = 0.0
    intensity: float = 0.25

    def __post_init__(self) -> None:
        for name, largest in (("elastic", LARGEST_ELASTIC), ("rotate", 180), ("scale", 1), ("intensity", 0.9)):
            value = getattr(self, name)
            if not 0 <= value <= largest:
                raise UsageError(f"{name} {value:g} is out of range", hint=f"--{name} takes 0 to {largest:g}")


NO_AUGMENTATION = AugmentationSettings(elastic=0, rotate=0, shift=False, flip=False, scale=0, intensity=0)


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed (64 bits) of one sample: different for every epoch and index, whatever the worker."""
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch, index))
    return int(sequence.generate_state(1, np.uint64)[0])


@lru_cache(maxsize=8)
def spline_basis(size: int) -> NDArray[np.float64]:
    """Return B (size, 3): the cubic B-spline through three control points on an axis, read at each of its pixels.

    The control points lie on the first, the middle and the last pixel, mirrored beyond; ``By @ grid @ Bx.T`` is then
    what ``map_coordinates(grid, ..., order=3, mode="mirror")`` returns, some hundred times faster.
    """
    positions = np.linspace(0, CONTROL_POINTS - 1, size)[None]
    units = np.eye(CONTROL_POINTS)
    return np.stack([ndimage.map_coordinates(unit, positions, order=3, mode="mirror") for unit in units], axis=1)


def displacement_sigma(elastic: float, patch_size: int) -> float:
    """Return the standard deviation of the displacements in pixels, the same fraction of any patch."""
    return elastic * patch_size / REFERENCE_PATCH


def build_map(
    size: int, centre: tuple[float, float], grids: NDArray[np.float64], matrix: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the image position (2, size, size), y before x, that each patch pixel shows.

    Patch pixels are displaced, turned by `matrix` about the middle of the patch, and moved to `centre`, or as near to
    it as whole pixels allow: without displacement and turn the patch is a crop, for a pixel (y, x) as centre
    ``image[y - size // 2 : y - size // 2 + size, ...]``.

    Parameters
    ----------
    centre : position (y, x) in the image, in pixels; (0, 0) is the middle of the first one.
    grids : (2, 3, 3) displacements of the control points in pixels, y before x.
    matrix : (2, 2) acts on (y, x).
    """
    middle = (size - 1) / 2
    offsets = np.arange(size)[:, None] - middle
    # both positions are a sum of products of a row's and a column's value, hence a product of two thin matrices
    axis = np.hstack([spline_basis(size), offsets, np.ones((size, 1))])  # (size, 5)
    positions = np.empty((2, size, size), dtype=np.float32)
    for direction, position in enumerate(centre):
        factors = np.zeros((5, 5))
        factors[:3, :3] = matrix[direction, 0] * grids[0] + matrix[direction, 1] * grids[1]
        factors[3, 4], factors[4, 3] = matrix[direction]
        factors[4, 4] = middle + np.ceil(position - middle - 0.5)
        rows, columns = (torch.from_numpy(factor.astype(np.float32)) for factor in (axis @ factors, axis.T))
        torch.mm(rows, columns, out=torch.from_numpy(positions[direction]))  # others' products wake a thread per core
    return positions


def turn(degrees: float, *, scale: float = 1.0, flip_y: bool = False, flip_x: bool = False) -> NDArray[np.float64]:
    """Return the matrix (2, 2) on (y, x) that mirrors, then enlarges what is seen by `scale`, then turns it."""
    # cos and sin of quarter turns are exact this way, and so are the pixels
    cosine, sine = (round(float(f(np.deg2rad(degrees))), 15) for f in (np.cos, np.sin))
    mirror = np.diag([-1.0 if flip_y else 1.0, -1.0 if flip_x else 1.0])
    return np.array([[cosine, -sine], [sine, cosine]]) @ mirror / scale


class Warp(A.DualTransform):  # type: ignore[misc]  # albumentations is not typed
    """The one resampling: draws a map, reads the region that it needs, returns image patch and label patch.

    It takes ``image``, ``mask`` and ``centre``; image and mask may be any `Source`. It is not a ``BaseDistortion``,
    which resamples whole images, in as many pixels as they have.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(
        self,
        patch_size: int,
        output_size: int,
        elastic: float,
        rotate: float,
        flip: bool,
        scale: float,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.patch_size, self.output_size = patch_size, output_size
        self.elastic, self.rotate, self.flip, self.scale = elastic, rotate, flip, scale

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the map, (2, n, n) in image coordinates."""
        draw = self.random_generator
        sigma = displacement_sigma(self.elastic, self.patch_size)
        grids = draw.normal(0, sigma, (2, CONTROL_POINTS, CONTROL_POINTS))
        degrees = draw.uniform(-self.rotate, self.rotate)
        scale = (1 + self.scale) ** draw.uniform(-1, 1)
        flip_y, flip_x = (bool(coin) and self.flip for coin in draw.integers(0, 2, 2))
        matrix = turn(degrees, scale=scale, flip_y=flip_y, flip_x=flip_x)
        positions = build_map(self.patch_size, data["centre"], grids, matrix)
        return {"positions": positions, "intensity": data.get("intensity")}

    def apply(
        self, img: Source, positions: NDArray[np.float32], intensity: IntensityRange | None, **params: Any
    ) -> Image:
        """Return the image patch as planes (C, n, n), read by cubic convolution."""
        region, local = _region(img, positions, beside=1)
        return resample(region, local, intensity).transpose(2, 0, 1)

    def apply_to_mask(self, mask: Source, positions: NDArray[np.float32], **params: Any) -> Labels:
        """Return the label patch (m, m) from the middle of the map, each label from the nearest pixel."""
        margin = (self.patch_size - self.output_size) // 2
        inner = slice(margin, margin + self.output_size)
        region, local = _region(mask, positions[:, inner, inner])
        # any id survives: OpenCV takes the nearest value as it is, whatever its bits mean
        y, x = np.ascontiguousarray(np.rint(local))
        labels: Labels = cv2.remap(region.view(np.float32), x, y, cv2.INTER_NEAREST).view(np.int32)
        return labels


def _region(
    source: Source, positions: NDArray[np.float32], beside: int = 0
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return the part of the source around the positions, mirrored outside, and the positions within it.

    It holds the pixels between which each position lies, and as many more `beside` them on every side.
    """
    first = [int(low) - beside for low in np.floor(positions.min(axis=(1, 2)))]
    last = [int(high) + beside for high in np.ceil(positions.max(axis=(1, 2)))]
    region = read_mirrored(source, first[0], last[0] + 1, first[1], last[1] + 1)
    return region, positions - np.array(first, dtype=np.float32)[:, None, None]


def resample(image: NDArray[Any], positions: NDArray[np.float32], intensity: IntensityRange | None = None) -> Image:
    """Return the image (H, W, C) at the positions (2, h, w), as float32 (h, w, C): cubic convolution with a = -0.75.

    It is normalized before, where its `intensity` is given. The channels lie in memory one after the other. OpenCV 4
    rounds positions to 1/32 pixel, which is nothing that training notices.
    """
    y, x = positions
    planes = np.empty((image.shape[2], *y.shape), dtype=np.float32)
    for channel, plane in enumerate(planes):
        pixels = image[:, :, channel]
        if intensity is not None:
            pixels = normalize(pixels, _range_of(intensity, channel))[:, :, 0]
        pixels = np.ascontiguousarray(pixels, dtype=np.float32)
        cv2.remap(pixels, x, y, cv2.INTER_CUBIC, plane, cv2.BORDER_REPLICATE)
    return planes.transpose(1, 2, 0)


def _range_of(intensity: IntensityRange, channel: int) -> IntensityRange:
    return IntensityRange(*((values[channel],) for values in (intensity.low, intensity.high, intensity.median)))


class GrayValues(A.ImageOnlyTransform):  # type: ignore[misc]  # albumentations is not typed
    """Random contrast, brightness and a bent gray-value curve, for normalized planes (C, H, W), not clipped.

    With strength s: contrast about 0.5 by ``exp(-s)`` to ``exp(s)``, brightness by ``-s/2`` to ``s/2``, and a monotone
    curve through 0 and 1 that is bent up or down by as much as ``s/4`` between (the part of a gamma correction, which
    values outside 0..1 do not allow). All channels share the draw; each adds half as much of its own.
    """

    def __init__(self, strength: float, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.strength = strength

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw contrast, brightness and bend of every channel, (C,) each."""
        channels = data["image"].shape[0]
        draw = self.random_generator
        shared, own = draw.uniform(-1, 1, (3, 1)), draw.uniform(-1, 1, (3, channels))
        contrast, brightness, bend = self.strength * (shared + 0.5 * own) / 1.5
        return {"contrast": np.exp(contrast), "brightness": brightness / 2, "bend": bend}

    def apply(self, img: Image, contrast: Any, brightness: Any, bend: Any, **params: Any) -> Image:
        """Return the image with varied gray values."""
        varied = np.empty_like(img)
        for plane, result, factor, shift, bent in zip(img, varied, contrast, brightness, bend, strict=True):
            # x + b x (1 - x) between 0 and 1, continued by its tangents, so that it is smooth and rises everywhere:
            # x + b (x + inside (inside - 2 x))
            inside = np.clip(plane, 0, 1)
            curve = cv2.addWeighted(inside, 1, plane, -2, 0)
            cv2.multiply(curve, inside, curve)
            cv2.addWeighted(plane, factor * (1 + bent), curve, factor * bent, 0.5 - 0.5 * factor + shift, result)
        return varied


class GrayNoise(A.ImageOnlyTransform):  # type: ignore[misc]  # albumentations is not typed
    """Gaussian noise, independent in every pixel and channel; its standard deviation is drawn up to `largest`."""

    def __init__(self, largest: float, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.largest = largest

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the noise."""
        planes, rows, columns = data["image"].shape
        noise = np.empty((planes, rows, columns), dtype=np.float32)
        cv2.setRNGSeed(int(self.random_generator.integers(2**31)))  # four times faster than numpy's
        deviation = np.array([self.random_generator.uniform(0, self.largest)])
        cv2.randn(noise.reshape(planes * rows, columns), np.zeros(1), deviation)
        return {"noise": noise}

    def apply(self, img: Image, noise: Image, **params: Any) -> Image:
        """Return the image with the noise."""
        return img + noise


class Augmentation:
    """A random patch around a given centre; the same seed gives the same patch, in any process."""

    def __init__(self, settings: AugmentationSettings, *, patch_size: int, output_size: int) -> None:
        assert 0 < output_size <= patch_size
        assert (patch_size - output_size) % 2 == 0
        self.patch_size = patch_size
        self.output_size = output_size
        warp = Warp(patch_size, output_size, settings.elastic, settings.rotate, settings.flip, settings.scale)
        transforms: list[Any] = [warp]
        if settings.intensity > 0:
            transforms += [GrayValues(settings.intensity), GrayNoise(settings.intensity / 5)]
        # the image is larger or smaller than the patch, and need not be an array
        self.compose = A.Compose(transforms, is_check_shapes=False)

    def __call__(
        self,
        image: Source,
        labels: Source,
        centre: tuple[float, float],
        seed: int,
        intensity: IntensityRange | None = None,
    ) -> tuple[Image, Labels]:
        """Return the image patch (n, n, C) float32 and its labels (m, m) int32, the middle of the same map.

        The channels of the patch lie in memory one after the other.

        Parameters
        ----------
        image : (H, W, C) of any size; a memory map or another `Source` is read only where needed
            (an array that is not contiguous would be copied whole).
        labels : (H, W) class indices or instance ids, ignored pixels included. Where the patch reaches outside
            the image, the labels are mirrored with it.
        centre : position (y, x) of the middle of the patch in the image, taken to the nearest whole pixels.
        seed : see `sample_seed`.
        intensity : how to normalize the image, None where it is normalized already.
        """
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        sample = self.compose(image=image, mask=labels, centre=centre, intensity=intensity)
        return sample["image"].transpose(1, 2, 0), sample["mask"]

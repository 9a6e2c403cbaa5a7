"""Slow, obvious twins of what the program does fast."""

import itertools
import math

import numpy as np


def border_weights_per_cell(instances, border_weight=10.0, border_sigma=5.0):
    """Equation 2's second term with one whole-image distance transform per cell."""
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    distances = [distance_transform_edt(instances != cell) for cell in np.unique(instances[instances > 0])]
    if len(distances) < 2:
        return np.zeros(instances.shape)
    d1, d2 = np.sort(distances, axis=0)[:2]
    return np.where(instances == 0, border_weight * np.exp(-((d1 + d2) ** 2) / (2 * border_sigma**2)), 0)


def component_borders_per_component(target, smoothing=3.0, narrow=2):
    """Border weights between the components of each class, from one distance transform per component."""
    import numpy as np
    from scipy.ndimage import distance_transform_edt, gaussian_filter, label

    weights = np.zeros(target.shape)
    for number in range(1, target.max(initial=0) + 1):
        components, found = label(target == number)
        if found < 2:
            continue
        exact = np.where(target == 0, border_weights_per_cell(components), 0)
        distances = [distance_transform_edt(components != part) for part in range(1, found + 1)]
        kept = np.where(np.sum(np.sort(distances, axis=0)[:2], axis=0) <= narrow + 1, exact, 0)
        spread = gaussian_filter(exact, smoothing, mode="mirror") if smoothing else exact
        weights = np.maximum.reduce([weights, kept, spread])
    return weights


def ridges_pixel_by_pixel(instances):
    """Ridges by looking at the eight neighbours of every pixel."""
    height, width = instances.shape
    touching = {}
    for y in range(height):
        for x in range(width):
            around = instances[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            cell = instances[y, x]
            if cell > 0:
                touching[y, x] = bool(((around > 0) & (around != cell)).any())
    survivors = {int(instances[place]) for place, touches in touching.items() if not touches}
    ridged = instances.copy()
    for place, touches in touching.items():
        if touches and int(instances[place]) in survivors:
            ridged[place] = 0
    return ridged


def displacement_field(grid, size):
    """The cubic B-spline surface (size, size) through a coarse grid whose corners are the corner pixels."""
    import numpy as np
    from scipy.ndimage import map_coordinates

    rows, columns = (np.linspace(0, points - 1, size) for points in grid.shape)
    return map_coordinates(grid, np.meshgrid(rows, columns, indexing="ij"), order=3, mode="mirror")


def nearest_at(image, positions):
    """An image (H, W) at positions (2, h, w), mirrored outside, each the value of the nearest pixel."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(image, positions, order=0, mode="mirror", prefilter=False)


def cubic_at(image, positions):
    """An image (H, W, C) at positions (2, h, w), mirrored outside, by cubic convolution (Keys, 1981, a = -0.75)."""
    import numpy as np

    def weight(distance, a=-0.75):
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        return np.where(distance <= 1, near, far)

    whole = np.floor(positions).astype(int)
    found = np.zeros((*positions.shape[1:], image.shape[2]))
    for y in range(-1, 3):
        for x in range(-1, 3):
            rows, columns = whole[0] + y, whole[1] + x
            share = weight(np.abs(positions[0] - rows)) * weight(np.abs(positions[1] - columns))
            rows, columns = (_mirrored(place, size) for place, size in zip((rows, columns), image.shape, strict=False))
            found += share[..., None] * image[rows, columns]
    return found


def _mirrored(place, size):
    """Indices on an axis of so many pixels, mirrored outside without repeating the edge."""
    import numpy as np

    period = max(1, 2 * size - 2)
    return np.minimum(place % period, -place % period)


# --- metrics: truth and prediction are small arrays -----------------------------------------------------------------


def border_points(mask):
    """The pixels of a mask with one of their four neighbors outside it or the image."""
    height, width = mask.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        if mask[y, x]
        and any(
            not (0 <= v < height and 0 <= u < width and mask[v, u])
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        )
    ]


def border_distances(start, end, spacing=(1.0, 1.0)):
    """The distance of each border pixel of one mask to the nearest border pixel of the other, all pairs compared."""
    return [
        min(math.hypot((y - v) * spacing[0], (x - u) * spacing[1]) for v, u in border_points(end))
        for y, x in border_points(start)
    ]


def object_ious(truth, prediction):
    """IoU of every true object (rows) with every predicted object (columns), from the masks themselves."""
    table = [
        [
            np.sum((truth == t) & (prediction == p)) / np.sum((truth == t) | (prediction == p))
            for p in np.unique(prediction[prediction > 0])
        ]
        for t in np.unique(truth[truth > 0])
    ]
    return np.array(table).reshape(np.unique(truth[truth > 0]).size, np.unique(prediction[prediction > 0]).size)


def best_matching(ious, threshold):
    """Number of pairs and their IoU sum of the best one-to-one matching, every permutation tried."""
    if ious.shape[0] > ious.shape[1]:
        ious = ious.T
    rows, columns = ious.shape
    best = (0, 0.0)
    for choice in itertools.permutations(range(columns), rows):
        taken = [ious[i, j] for i, j in enumerate(choice) if ious[i, j] >= threshold]
        best = max(best, (len(taken), float(sum(taken))))
    return best


def rand_by_pairs(truth, prediction):
    """Rand statistics inside the true segments by looking at every ordered pair of pixels; prediction 0 = singletons.

    Returns the shares of pairs that are together in both, in the truth, and in the prediction.
    """
    pixels = [(t, p) for t, p in zip(truth.ravel(), prediction.ravel(), strict=True) if t > 0]
    both = true = predicted = 0
    for i, (t, p) in enumerate(pixels):
        for j, (v, q) in enumerate(pixels):
            together = (p == q and p > 0) or i == j
            both += t == v and together
            true += t == v
            predicted += together
    pairs = len(pixels) ** 2
    return both / pairs, true / pairs, predicted / pairs


def whole_image_probabilities(network, image):
    """Class probabilities (K, H, W) of an image (H, W, C) in one forward pass, mirrored all around by np.pad."""
    import numpy as np
    import torch

    geometry = network.geometry
    height, width, _ = image.shape
    before = geometry.border
    after = [geometry.input_for(geometry.rounded_up(size)) - before - size for size in (height, width)]
    padded = image
    for axis, pad in enumerate(after):
        width_of_padding = [(0, 0)] * 3
        width_of_padding[axis] = (before, pad)
        mode = "reflect" if image.shape[axis] > 1 else "edge"  # one pixel is its own mirror image
        padded = np.pad(padded, width_of_padding, mode=mode)
    tensor = torch.from_numpy(np.ascontiguousarray(padded.transpose(2, 0, 1)[None]))
    with torch.inference_mode():
        logits = network(tensor)
    cut = geometry.context
    return logits.float().softmax(dim=1)[0, :, cut : cut + height, cut : cut + width].numpy()


def rows_without_padding(network, size, room, channels=1):
    """The output rows of a network on `size` pixels that stay when real pixels replace what was padded.

    Two passes in float64: one on a window, one on an image with `room` more pixels (a multiple of the step) on every
    side of it. Returns the first row that agrees, one past the last, and the number of rows of the window's output.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, channels, size + 2 * room, size + 2 * room, generator=generator, dtype=torch.float64)
    window = image[..., room : room + size, room : room + size].clone()
    network = network.double().eval()
    with torch.no_grad():
        alone, within = network(window), network(image)
    rows = alone.shape[-1]
    within = within[..., room : room + rows, room : room + rows]
    agree = ((alone - within).abs() < 1e-9 * within.abs().max())[0].all(0)  # (rows, rows)
    middle = rows // 2
    exact = agree[:, middle - 16 : middle + 16].all(1).tolist()
    first, stop = middle, middle
    while first > 0 and exact[first - 1]:
        first -= 1
    while stop < rows and exact[stop]:
        stop += 1
    return first, stop, rows


def redraw(network, seed=0):
    """Give every parameter and running statistic a value that matters: scores that start at zero hide every fault."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.dim() > 1:
                tensor.copy_(noise * (2 / max(1, tensor[0].numel())) ** 0.5)
            else:
                tensor.copy_(0.1 * noise + (name.endswith("weight")))
    return network


def components_by_flooding(mask):
    """4-connected components of a mask as {pixel: number}, by flooding from every pixel."""
    import numpy as np

    numbers = {}
    for start in map(tuple, np.argwhere(mask)):
        if start in numbers:
            continue
        number, waiting = len(set(numbers.values())) + 1, [start]
        while waiting:
            y, x = waiting.pop()
            inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
            if inside and mask[y, x] and (y, x) not in numbers:
                numbers[y, x] = number
                waiting += [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return numbers


def information_score(truth, prediction):
    """V_info of two masks as they are: entropies pixel by pixel inside the true cells, missed pixels alone."""
    import math
    from collections import Counter

    true_parts, found_parts = components_by_flooding(truth), components_by_flooding(prediction)
    pairs = [(part, found_parts.get(pixel, pixel)) for pixel, part in true_parts.items()]

    def entropy(names):
        return -sum(math.log(Counter(names)[name] / len(names)) / len(names) for name in names)

    first, second = entropy([pair[0] for pair in pairs]), entropy([pair[1] for pair in pairs])
    if first < 1e-12 or second < 1e-12:
        return 0.0
    return 2 * (first + second - entropy(pairs)) / (first + second)


def boundary_band(mask, width):
    """Pixels of a mask nearer than `width` to one of its border pixels, by looking at all pairs."""
    height, length = mask.shape

    def outside(y, x):
        return not (0 <= y < height and 0 <= x < length and mask[y, x])

    pixels = [(y, x) for y in range(height) for x in range(length) if mask[y, x]]
    border = [(y, x) for y, x in pixels if any(outside(y + a, x + b) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0)))]
    return {(y, x) for y, x in pixels if any((y - a) ** 2 + (x - b) ** 2 < width**2 for a, b in border)}


def objects_of(classes, *, min_size=0, fill_holes=False, give_back_ridges=True):
    """Ids of the objects of a page that is looked at as a whole, one object and one pixel after the other."""
    import numpy as np
    from scipy import ndimage

    height, width = classes.shape
    objects = np.zeros((height, width), int)
    for label in range(1, int(classes.max(initial=0)) + 1):
        for pixel, number in components_by_flooding(classes == label).items():
            objects[pixel] = 1000 * label + number
    for number in set(objects.ravel()):
        if (objects == number).sum() < min_size:
            objects[objects == number] = 0
    disc = sorted((a * a + b * b, a, b) for a in range(-2, 3) for b in range(-2, 3) if a * a + b * b <= 4)
    if give_back_ridges:
        before = objects.copy()
        for y, x in np.argwhere(before == 0):
            places = [(y + a, x + b) for _, a, b in disc if 0 <= y + a < height and 0 <= x + b < width]
            near = [before[place] for place in places if before[place]]
            if len(set(near)) > 1:
                objects[y, x] = near[0]
    if fill_holes:
        before = objects.copy()
        enclosed = {
            number: ndimage.binary_fill_holes(before == number) & (before == 0) for number in set(before.ravel()) - {0}
        }
        for number in sorted(enclosed, key=lambda number: -enclosed[number].sum()):  # the innermost last
            objects[enclosed[number]] = number
    numbers = {}
    for value in objects.ravel():
        if value:
            numbers.setdefault(value, len(numbers) + 1)
    return np.vectorize(lambda value: numbers.get(value, 0), otypes=[int])(objects)

"""Slow, obvious twins of what the program does fast."""


def border_weights_per_cell(instances, border_weight=10.0, border_sigma=5.0):
    """Equation 2's second term with one whole-image distance transform per cell."""
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    distances = [distance_transform_edt(instances != cell) for cell in np.unique(instances[instances > 0])]
    if len(distances) < 2:
        return np.zeros(instances.shape)
    d1, d2 = np.sort(distances, axis=0)[:2]
    return np.where(instances == 0, border_weight * np.exp(-((d1 + d2) ** 2) / (2 * border_sigma**2)), 0)


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


def read_at(image, positions, order):
    """An image (H, W) or (H, W, C) at positions (2, h, w), mirrored outside; order 1 is linear, 0 nearest."""
    import numpy as np
    from scipy.ndimage import map_coordinates

    if image.ndim == 2:
        return map_coordinates(image, positions, order=order, mode="mirror", prefilter=False)
    return np.stack([read_at(image[..., c], positions, order) for c in range(image.shape[2])], axis=-1)

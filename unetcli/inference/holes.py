"""Which object encloses which background: every way from there to the edge of the image crosses it.

The pieces of background and the objects are the nodes of a graph whose edges are the borders between them. An object
that separates a piece from the outside is an articulation point of this graph, found with the low points of a
depth-first search (Hopcroft and Tarjan 1973).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

_OUTSIDE = 0


class HoleFinder:
    """Takes the objects of a page from top to bottom, and tells at the end where background belongs.

    Parameters
    ----------
    objects : their number; the pieces of background are numbered from there on.
    """

    def __init__(self, objects: int) -> None:
        self.objects = objects
        self.count = objects
        self.last: NDArray[np.int32] | None = None
        self.borders: list[NDArray[np.int32]] = []  # (2, n) numbers of pieces that touch

    def add(self, objects: NDArray[np.int32]) -> NDArray[np.int32]:
        """Take the next rows (h, W), and return them with a number for each piece of background too."""
        pieces, found = ndimage.label(objects == 0)
        numbers = np.where(pieces > 0, pieces + self.count, objects)
        self.count += found
        if self.last is None:
            self.last = np.full_like(numbers[0], _OUTSIDE)
        framed = np.pad(np.concatenate([self.last[None], numbers]), ((0, 0), (1, 1)), constant_values=_OUTSIDE)
        self.borders += [_pairs(framed[:-1], framed[1:]), _pairs(framed[1:, :-1], framed[1:, 1:])]
        self.last = numbers[-1]
        return numbers

    def owners(self) -> NDArray[np.int32]:
        """Return the object of each number: itself, the innermost that encloses the background, or 0."""
        assert self.last is not None
        ends = _pairs(self.last, np.full_like(self.last, _OUTSIDE))
        borders = np.concatenate([*self.borders, ends], axis=1)
        background = (borders > self.objects).all(axis=0)  # pieces of neighboring bands: one and the same
        _, node = sparse.csgraph.connected_components(_graph(borders[:, background], self.count + 1), directed=False)
        object_of = np.zeros(int(node.max()) + 1, np.int32)
        object_of[node[1 : self.objects + 1]] = np.arange(1, self.objects + 1)
        touching = _graph(node[borders[:, ~background]], len(object_of))
        owners: NDArray[np.int32] = _enclosing(touching, int(node[_OUTSIDE]), object_of)[node]
        owners[: self.objects + 1] = np.arange(self.objects + 1)
        return owners


def _pairs(one: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the different pairs (2, n) of different numbers at the same places."""
    differ = one != other
    least, most = np.minimum(one[differ], other[differ]), np.maximum(one[differ], other[differ])
    keys = np.unique(least.astype(np.int64) << 32 | most)
    return np.stack([keys >> 32, keys & 0xFFFFFFFF]).astype(np.int32)


def _graph(pairs: NDArray[np.int32], nodes: int) -> "sparse.csr_array":
    one, other = pairs
    ends = np.concatenate([one, other]), np.concatenate([other, one])
    return sparse.csr_array((np.ones(2 * len(one), np.bool_), ends), (nodes, nodes))


def _enclosing(graph: "sparse.csr_array", outside: int, object_of: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the innermost object that separates each node of a connected graph from the outside, 0 for none.

    Parameters
    ----------
    object_of : the object of each node, 0 for background.
    """
    starts, neighbors = graph.indptr.tolist(), graph.indices.tolist()
    upcoming = list(starts)  # the next border of each node to follow
    objects, owners = object_of.tolist(), [0] * len(object_of)
    visited, low, parents = [0] * len(objects), [0] * len(objects), [outside] * len(objects)
    visited[outside] = low[outside] = 1
    tour, path = [outside], [outside]
    while path:
        node = path[-1]
        if upcoming[node] == starts[node + 1]:
            path.pop()
            low[parents[node]] = min(low[parents[node]], low[node])
            continue
        other = neighbors[upcoming[node]]
        upcoming[node] += 1
        if visited[other]:
            low[node] = min(low[node], visited[other])
        else:
            tour.append(other)
            path.append(other)
            visited[other] = low[other] = len(tour)
            parents[other] = node
    for node in tour[1:]:
        parent = parents[node]
        separated = objects[parent] > 0 and low[node] >= visited[parent]
        owners[node] = objects[parent] if separated else owners[parent]
    return np.array(owners, np.int32)

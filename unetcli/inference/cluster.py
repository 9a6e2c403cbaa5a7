"""Inference by the processes of a cluster: each predicts rows of tiles, and the results come back in order.

The tiles are those of a single process, so the result is the same. The rows of a tile are whole chunks of the main
output where that is an OME-Zarr: the process that predicts them writes them too. What is done is recorded in the part
that stays when a run fails, and the next run of the same work goes on from there.
"""

import hashlib
import json
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unetcli import __version__
from unetcli.errors import ResourceError, UsageError
from unetcli.images import IntensityRange
from unetcli.images.atomic_folder import atomic_folder, part_of, read_key
from unetcli.images.omezarr_encoder import CHUNK, Store
from unetcli.images.threads import cores
from unetcli.images.writer import is_omezarr
from unetcli.inference.infer import Segmenter
from unetcli.inference.outputs import Output, RowsOutput
from unetcli.inference.predict import Band, TileSize
from unetcli.inference.records import Destinations, InferConfig
from unetcli.inference.scan import Scan
from unetcli.inference.tiling import TileGrid, cut
from unetcli.inference.work import Work, predict_rows, read_record, record_path

LOCAL = "local"
CONNECT = 10  # seconds to wait for a scheduler
PATIENCE = 60  # seconds without any worker after which a run ends
CORES_EACH = 4  # cores of a local process, where there are many


class Cluster:
    """The processes behind a dask scheduler.

    Parameters
    ----------
    client : of dask.distributed.
    address : what the user named.
    """

    def __init__(self, client: Any, address: str, device: str, threads: int | None) -> None:
        self.client = client
        self.address = address
        self.device = device
        self.threads = threads

    @property
    def workers(self) -> int:
        """How many processes there are."""
        return len(self.client.nthreads())

    @contextmanager
    def spread(
        self,
        segmenter: Segmenter,
        image: Scan,
        intensity: IntensityRange,
        destinations: Destinations,
        config: InferConfig,
        size: TileSize,
    ) -> Iterator["Spread"]:
        """Yield an image that is being predicted; `size` takes the tile of an interrupted run of the same work."""
        sources = tuple(_absolute(source) for source in image.sources)
        belongs = _digest(segmenter, image, intensity, destinations, config)
        main = destinations.main
        store_path = main if isinstance(main, Path) and is_omezarr(main) else None
        left = {} if store_path is None else _left_by(store_path)
        if left.get("belongs") == belongs:
            size.tile, size.batch = left["tile"], left["batch"]
        grid = cut(image.info.height, image.info.width, segmenter.geometry, size.tile)
        store, key = Store(config.ngff), json.dumps({"belongs": belongs, "tile": size.tile, "batch": size.batch})
        with ExitStack() as stack:
            if store_path is not None:
                part = stack.enter_context(atomic_folder(store_path, key=key)).absolute()
                store = replace(store, folder=part, rows=whole_chunks(grid.core_height))
            work = Work(
                models=tuple((path.absolute(), sha256) for path, sha256 in segmenter.files),
                device=self.device,
                precision=segmenter.device.precision,
                threads=self.threads,
                sources=sources,
                stamp=_stamp(sources),
                config=config,
                intensity=intensity,
                tile=size.tile,
                batch=size.batch,
                part=store.folder,
                key=key,
            )
            spread = Spread(self, work, store, grid, image.info.pages)
            stack.callback(spread.cancel)
            yield spread


class Spread:
    """An image whose rows of tiles are predicted by many processes, a few ahead of what is taken.

    Parameters
    ----------
    store : how the main output is stored.
    grid : the tiles of a page.
    """

    def __init__(self, cluster: Cluster, work: Work, store: Store, grid: TileGrid, pages: int) -> None:
        self.store = store
        self._cluster = cluster
        self._work = work
        parts = [replace(grid, top=row[0].top, height=row[0].bottom) for row in grid.rows()]
        self._rows = len(parts)
        self._left = iter([(page, part) for page in range(pages) for part in parts])
        self._ahead: deque[tuple[int, TileGrid, Any]] = deque()

    def begin(self, outputs: Sequence[Output]) -> None:
        """Let the processes write the rows of the main output, where each can own whole chunks of it."""
        for output in outputs:
            if isinstance(output, RowsOutput) and output.writer.shared is not None:
                output.written_elsewhere = True
                self._work = replace(
                    self._work,
                    rows=output.rows,
                    level=output.writer.shared,
                    wants_probabilities=output.wants_probabilities,
                )
        wanted = any(o.wants_probabilities and not getattr(o, "written_elsewhere", False) for o in outputs)
        self._work = replace(self._work, keep_probabilities=wanted)

    def bands(self) -> Iterator[Band]:
        """Yield the bands of the next page, from top to bottom.

        Raises
        ------
        ResourceError : processes died again and again, or none are left, or the scheduler is gone.
        """
        for _ in range(self._rows):
            self._submit()
            page, part, future = self._ahead.popleft()
            yield read_record(self._work, page, part) if future is None else self._result(future, part)

    def cancel(self) -> None:
        """Stop what is still being predicted."""
        futures = [future for _, _, future in self._ahead if future is not None]
        if futures:
            self._cluster.client.cancel(futures)
        self._ahead.clear()

    def _submit(self) -> None:
        running = 2 * max(1, sum(self._cluster.client.nthreads().values()))
        while len(self._ahead) < running and (task := next(self._left, None)) is not None:
            page, part = task
            done = self._work.part is not None and record_path(self._work, page, part).exists()
            future = None if done else self._cluster.client.submit(predict_rows, self._work, page, part, pure=False)
            self._ahead.append((page, part, future))

    def _result(self, future: Any, part: TileGrid) -> Band:
        from distributed import KilledWorker

        address = self._cluster.address
        while True:
            try:
                band: Band = future.result(timeout=PATIENCE)
                return band
            except KilledWorker as error:
                raise ResourceError(
                    f"rows {part.top}-{part.height - 1}: every worker that tried them died, perhaps for lack of memory",
                    hint="a smaller --tile, or workers with more memory",
                ) from error
            except CancelledError as error:
                raise ResourceError(
                    f"lost the scheduler at {address}", hint="start it again, and run the same command"
                ) from error
            except TimeoutError as error:
                if future.status == "error":  # of the task itself, not of waiting for it
                    raise ResourceError(
                        f"rows {part.top}-{part.height - 1}: a worker's file system did not answer ({error})",
                        hint="run the same command again",
                    ) from error
                if not self._cluster.client.nthreads():
                    raise ResourceError(f"no worker left at {address}", hint=f"dask worker {address}") from error


@contextmanager
def open_cluster(
    address: str, *, device: str, workers: int | None = None, threads: int | None = None
) -> Iterator[Cluster]:
    """Yield the processes behind a scheduler, or new ones on this machine where the address is `LOCAL`.

    Parameters
    ----------
    device : as the user named it; each process chooses for itself.
    workers : how many processes to start here; by default as many as suit the cards or the cores.
    threads : compute threads of a running worker, or of all new processes together.

    Raises
    ------
    UsageError : the address is none.
    ResourceError : no scheduler or no worker answers, or the workers lack this version of the program.
    """
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what concerns the user is raised
    with ExitStack() as stack:
        if address == LOCAL:
            processes, threads = _local_processes(workers, threads)
            local = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=processes,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                memory_limit=0,
            )
            stack.enter_context(local)
            target: Any = local
        else:
            target = address
        try:
            client = stack.enter_context(Client(target, timeout=CONNECT, set_as_default=False))  # type: ignore[no-untyped-call]
            client.wait_for_workers(1, timeout=PATIENCE)
        except ValueError as error:
            raise UsageError(f"--cluster {address}: {error}", hint="--cluster HOST:8786, or --cluster local") from error
        except (OSError, TimeoutError) as error:
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            hint = f"dask scheduler; then dask worker {address} on every machine"
            raise ResourceError(f"no scheduler with workers at {address}: {what}", hint=hint) from error
        _check_workers(client, address)
        yield Cluster(client, address, device, threads)


def _check_workers(client: Any, address: str) -> None:
    hint = f"pip install unetcli=={__version__} on the machines of the workers"
    try:
        versions = set(client.run(_version).values())
    except Exception as error:  # whatever keeps a foreign process from importing this program
        raise ResourceError(f"the workers at {address} cannot run unet: {error}", hint=hint) from error
    if versions != {__version__}:
        raise ResourceError(f"the workers at {address} have unet {', '.join(sorted(versions))}", hint=hint)


def _version() -> str:
    return __version__


def _local_processes(workers: int | None, threads: int | None) -> tuple[int, int]:
    """Return how many processes to start here, and the threads of each: one for every card where there is CUDA."""
    import torch

    available = threads or cores()
    processes = workers or torch.cuda.device_count() or max(min(2, available), available // CORES_EACH)
    return processes, max(1, available // processes)


def whole_chunks(core: int) -> int:
    """Return the rows of a chunk, of which a tile that writes `core` rows writes whole ones."""
    rows = core
    while rows > CHUNK and rows % 2 == 0:
        rows //= 2
    return rows


def _absolute(source: Any) -> Path:
    assert isinstance(source, Path)
    return source.absolute()


def _stamp(sources: Sequence[Path]) -> str:
    states = [path.stat() for path in sources]
    return str([(state.st_size, state.st_mtime_ns) for state in states])


def _digest(
    segmenter: Segmenter, image: Scan, intensity: IntensityRange, destinations: Destinations, config: InferConfig
) -> str:
    """Return what tells this work from any other whose result might differ."""
    sources = [_absolute(source) for source in image.sources]
    facts = [
        __version__,
        [sha256 for _, sha256 in segmenter.files],
        segmenter.device.precision,
        [str(path) for path in sources],
        _stamp(sources),
        str(image.info),
        asdict(intensity),
        {**asdict(config), "pages": str(config.pages)},
        destinations.probabilities is not None,
    ]
    return hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogateescape")).hexdigest()


def _left_by(target: Path) -> dict[str, Any]:
    """Return what an interrupted run noted of its work."""
    try:
        noted = json.loads(read_key(part_of(target)) or "{}")
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}

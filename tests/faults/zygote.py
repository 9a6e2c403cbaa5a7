"""Real processes of the program without its start-up time: one process imports it, then forks for every run.

A fork gets its own working folder, streams, environment, umask, limits and user, runs the command line, and leaves
as ``python -m unetcli`` does.
"""

import atexit
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

NOBODY = 65534
LIBRARIES = ("tifffile", "imagecodecs", "scipy.ndimage", "skimage.measure", "skimage.segmentation", "rich.progress",
             "torch._dynamo", "torch.fx.experimental.symbolic_shapes", "PIL.Image")  # fmt: skip
FLAGS = (os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


class Running:
    """A run that was started."""

    def __init__(self, zygote: "Zygote", pid: int) -> None:
        self.zygote = zygote
        self.pid = pid

    def wait(self, seconds: float = 30) -> int:
        """Return the exit code as a shell shows it; kill the run and fail when it takes too long."""
        deadline = time.monotonic() + seconds
        while (code := self.zygote.ask({"poll": self.pid})["code"]) is None:
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError(f"still running after {seconds} s")
            time.sleep(0.01)
        return code

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """Send a signal to the run and its children, as a terminal does and a cluster that ends a job."""
        os.killpg(self.pid, number)

    @property
    def has_children(self) -> bool:
        """Whether a process of the group of this run, which has ended, is still there."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Zygote:
    """The process that forks; a context."""

    def __enter__(self) -> "Zygote":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-W", "ignore", __file__]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *rest: object) -> None:
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()

    def ask(self, request: dict) -> dict:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, arguments, place, *, streams=(os.devnull, "out", "err"), environment=None, umask=0o022,
              limits=None, nobody=False, remove=False, encoding="utf-8", slow=0.0) -> Running:  # fmt: skip
        """Start a run in the folder `place`; a stream is a path, or None where it is closed.

        Parameters
        ----------
        limits : {"RLIMIT_FSIZE": bytes}.
        nobody : run without the rights of root.
        remove : remove the working folder before the run.
        slow : seconds to wait before every write of rows and every flush to the disk.
        """
        request = {
            "arguments": [str(argument) for argument in arguments],
            "place": str(place),
            "streams": [None if stream is None else str(Path(place) / stream) for stream in streams],
            "environment": {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1", **(environment or {})},
            "umask": umask,
            "limits": limits or {},
            "remove": remove,
            "encoding": encoding,
            "slow": slow,
            "nobody": nobody and os.geteuid() == 0,
        }
        return Running(self, self.ask(request)["pid"])


def serve() -> None:
    import unetcli

    for name in [*LIBRARIES, *(module.name for module in pkgutil.walk_packages(unetcli.__path__, "unetcli."))]:
        __import__(name)
    codes = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid = request["poll"]
            found, status = os.waitpid(pid, os.WNOHANG) if pid not in codes else (0, 0)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
            code = codes.get(pid)
            print(json.dumps({"code": code if code is None or code >= 0 else 128 - code}), flush=True)
            continue
        pid = os.fork()
        if not pid:
            become(request)
            break
        print(json.dumps({"pid": pid}), flush=True)
    else:
        return
    from unetcli.cli import run

    leave(run(request["arguments"]))


def leave(code: int) -> None:
    """End as the interpreter does, but without taking its modules apart, which takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = 120
    os._exit(code)


def become(request: dict) -> None:
    """Turn this fork into the process that was asked for."""
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGHUP):  # until the program has its own handler, and if nohup started all
        signal.signal(number, signal.SIG_DFL)
    os.chdir(request["place"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.stdin, sys.stdout, sys.stderr = (
        stream_of(number, path, request["encoding"]) for number, path in enumerate(request["streams"])
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    if request["remove"]:
        Path(request["place"]).rmdir()
    for name, value in request["limits"].items():
        kind = getattr(resource, name)
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
    if request["slow"]:
        slow_down(request["slow"])
    if request["nobody"]:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def slow_down(seconds: float) -> None:
    from unetcli.images import atomic
    from unetcli.images.writer import ImageWriter

    def slowly(call):
        def waiting(*arguments, **options):
            time.sleep(seconds)
            return call(*arguments, **options)

        return waiting

    ImageWriter.write_rows = slowly(ImageWriter.write_rows)
    atomic._synchronize = slowly(atomic._synchronize)


def stream_of(number: int, path: str | None, encoding: str):
    if path is None:
        os.close(number)
        return None
    descriptor = os.open(path, FLAGS[number], 0o666)
    os.dup2(descriptor, number)
    os.close(descriptor)
    return open(number, "r" if number == 0 else "w", encoding=encoding, closefd=False)


if __name__ == "__main__":
    serve()

"""A process that runs candidates on demand, so that two frameworks can be timed in turn without sharing a process.

A worker module calls `serve` with its candidates. The other side, `Worker`, starts it and asks for runs; both speak one
JSON object a line. Needs the standard library only: the peer's Python has no mulsupcon_tf.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence


class Worker:
    """A worker module in a process of its own.

    Args:
        python: the interpreter.
        module: with its folders; the checkout is on the path.
        arguments: of the module.
        cores: processors that it may use; None for all.
        environment: more variables.
    """

    def __init__(self, python: str, module: str, arguments: Sequence[str], *, cores: int | None = None, environment=()):
        with processors(cores):
            self.process = subprocess.Popen(
                [python, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=importing_from_checkout() | dict(environment),
            )
        self.names: list[str] = self._read()["names"]

    def run(self, name: str, seconds: float) -> dict[str, float]:
        """Runs a candidate for at least so long; returns `steps`, wall `seconds` and `cpu_seconds`, children's too."""
        self._write({"name": name, "seconds": seconds})
        return self._read()

    def extra_memory(self, name: str) -> float:
        """MiB that a step of a candidate takes at its peak."""
        self._write({"name": name, "seconds": 0})
        return self._read()["extra_memory"]

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _write(self, message: dict) -> None:
        print(json.dumps(message), file=self.process.stdin, flush=True)

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker of the benchmark ended: {self.process.args}")
        return json.loads(line)


def importing_from_checkout() -> dict[str, str]:
    """The environment of a process that is to import this checkout, whatever its folder."""
    paths = (str(pathlib.Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


@contextlib.contextmanager
def processors(count: int | None) -> Iterator[None]:
    """Processes that are started within it may use so many processors; all when None."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def serve(candidates: dict[str, Callable[[], object]], extra_memory: Callable[[str], float] | None = None) -> None:
    """Answers requests on standard input until it ends.

    Args:
        candidates: by name, one step each.
        extra_memory: of a candidate, in MiB, for requests without a time.
    """
    replies, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not come between the replies
    print(json.dumps({"names": list(candidates)}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["seconds"] == 0:
            reply = {"extra_memory": extra_memory(request["name"])}
        else:
            reply = _run(candidates[request["name"]], request["seconds"])
        print(json.dumps(reply), file=replies, flush=True)


def _run(step: Callable[[], object], least: float) -> dict[str, float]:
    step()
    done, start, worked = 0, time.perf_counter(), _processor_seconds()
    while done == 0 or time.perf_counter() - start < least:
        step()
        done += 1
    return {"steps": done, "seconds": time.perf_counter() - start, "cpu_seconds": _processor_seconds() - worked}


def _processor_seconds() -> float:
    """Of this process and of its children, which may still run."""
    children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    ticks = 0
    for child in children:
        fields = pathlib.Path(f"/proc/{child}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    finished = os.times()
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK") + finished.children_user + finished.children_system

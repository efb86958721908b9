"""The section vectors: steps of pretraining on vector sets by `python -m mulsupcon_tf.pretrain`, as a user runs it.

Each setting is one run in a process of its own. The parent reads `metrics.jsonl` while it grows, and the process's
processor time beside it, so start-up and compiling are not counted, but logging and checkpoints are.
"""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

from tools.benchmarks.measurement import Measurement
from tools.benchmarks.worker import processors

SETTINGS = (("yeast", 256), ("yeast", 1024), ("corel5k", 256))  # dataset, queue; 64 samples a batch
WINDOW = 2.0  # seconds that one figure is taken over, at least


def measure(settings, runs=SETTINGS, cores=(1, 2)) -> Iterator[Measurement]:
    """Steps per second, and per second of processor time, for each setting on one processor and on two."""
    for (dataset, queue), count in itertools.product(runs, cores):
        if count > len(os.sched_getaffinity(0)):
            continue
        figures = steps_per_second(
            pathlib.Path(settings.workdir) / "runs",
            dataset,
            count,
            windows=settings.repeats,
            flags=(f"--queue_size={queue}", *([f"--data_dir={settings.data_dir}"] if settings.data_dir else [])),
        )
        name = f"{dataset}, batch 64, queue {queue}, {'1 processor' if count == 1 else f'{count} processors'}"
        yield Measurement("vectors", name, "steps/s", [wall for wall, _ in figures], "windows of one run")
        yield Measurement("vectors", name, "steps/s of processor time", [worked for _, worked in figures])


def steps_per_second(
    folder: pathlib.Path, dataset: str, cores: int, *, windows: int, flags: tuple[str, ...] = ()
) -> list[tuple[float, float]]:
    """Steps per second of wall time and of processor time in successive windows of one pretraining.

    Args:
        folder: of the run, which is removed again.
        dataset: as for `--dataset`.
        cores: processors that the run may use.
        windows: how many figures.
        flags: more of the command.
    """
    run = folder / f"{dataset}-{os.getpid()}"
    command = [
        sys.executable,
        "-m",
        "mulsupcon_tf.pretrain",
        f"--dataset={dataset}",
        f"--workdir={run}",
        "--epochs=100000",
        *flags,
    ]
    with processors(cores):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        marks = [_mark_after(run / "metrics.jsonl", process, epochs=2, seconds=0.0)]
        for _ in range(windows):
            marks.append(_mark_after(run / "metrics.jsonl", process, epochs=marks[-1][0] + 1, seconds=WINDOW))
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(run, ignore_errors=True)
    pairs = itertools.pairwise(marks)
    return [((b[1] - a[1]) / (b[2] - a[2]), (b[1] - a[1]) / (b[3] - a[3])) for a, b in pairs]


def _mark_after(log: pathlib.Path, process: subprocess.Popen, *, epochs: int, seconds: float):
    """(Epochs, steps, wall clock, processor seconds) when an epoch ends, after so many epochs and seconds."""
    start = time.perf_counter()
    while True:
        lines = _whole_lines(log)
        seen = len(lines)
        if seen >= epochs and time.perf_counter() - start >= seconds:
            break
        if process.poll() is not None:
            raise RuntimeError(f"the pretraining that is timed ended: {process.stderr.read()}")
        time.sleep(0.002)
    while len(lines := _whole_lines(log)) == seen:
        time.sleep(0.001)
    return len(lines), json.loads(lines[-1])["step"], time.perf_counter(), _processor_seconds(process.pid)


def _whole_lines(log: pathlib.Path) -> list[str]:
    """Those that are written to their end."""
    return log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []


def _processor_seconds(pid: int) -> float:
    """As the scheduler counts them, to the nanosecond; the clock ticks of /proc/PID/stat are too coarse for a window."""
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9

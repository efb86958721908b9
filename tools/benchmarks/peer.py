"""The section peer: a checkout of MulSupCon, and pytorch-metric-learning's SupCon, in turn with ours.

`--peer=DIR` is the checkout, `--peer_python` a Python that has what it needs (torch, loguru, h5py, scikit-learn,
PyYAML). Each side runs in a process of its own on the same processors, one at a time. Its model, queue, loss and loader
run as they are. Its loss averages over anchors (`with_weight`), so that both sides compute the same number.
"""

import pathlib
import sys
from collections.abc import Iterator

import numpy as np

from mulsupcon_tf.utils.errors import InputError
from tools.benchmarks.measurement import Measurement, in_turn, ratios
from tools.benchmarks.vectors import steps_per_second
from tools.benchmarks.worker import Worker

SECONDS = 2.0  # of one measurement, at least
OURS = ("mulsupcon", "cld", "rld")


def measure(settings) -> Iterator[Measurement]:
    """Losses and yeast steps of both sides, and their ratios."""
    if settings.peer is None:
        raise InputError("--sections=peer needs --peer=DIR, a checkout of MulSupCon. Received: none")
    checkout = pathlib.Path(settings.peer).resolve()
    if not (checkout / "codes" / "losses.py").is_file():
        raise InputError(f"--peer must be a checkout of MulSupCon. Received: no codes/losses.py in {checkout}")
    python = settings.peer_python or sys.executable
    folder = pathlib.Path(settings.workdir).resolve()
    yield from _losses(settings, python, checkout, folder)
    yield from _yeast(settings, python, checkout, folder)


def _losses(settings, python: str, checkout: pathlib.Path, folder: pathlib.Path) -> Iterator[Measurement]:
    from tools.benchmarks.loss import Size, random_keys

    size, rng = Size(), np.random.default_rng(0)
    keys, key_labels, _ = random_keys(rng, size.keys, size)
    queries, labels, _ = random_keys(rng, size.batch, size)
    data = folder / "peer_loss.npz"
    np.savez(data, queries=queries, keys=keys, labels=labels, key_labels=key_labels)
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with (
        Worker(python, "tools.benchmarks.peer_worker", [str(checkout), "loss", str(data)]) as theirs,
        Worker(sys.executable, "tools.benchmarks.own_worker", OURS, environment=quiet) as ours,
    ):
        sides = {
            f"MulSupCon's {name}" if name == "loss" else f"{name} of pytorch-metric-learning": (theirs, name)
            for name in theirs.names
        } | {f"our {name}": (ours, name) for name in OURS}
        found = in_turn(
            {name: lambda side=side: side[0].run(side[1], SECONDS) for name, side in sides.items()}, settings.repeats
        )
        memory = {name: worker.extra_memory(each) for name, (worker, each) in sides.items()}
    times = {name: [one["seconds"] / one["steps"] for one in runs] for name, runs in found.items()}
    worked = {name: [one["cpu_seconds"] / one["steps"] for one in runs] for name, runs in found.items()}
    for name in sides:
        label = f"{name}, {size}"
        yield Measurement("peer", label, "ms", [1e3 * value for value in times[name]], "forward and backward")
        yield Measurement("peer", label, "ms of processor time", [1e3 * value for value in worked[name]])
        yield Measurement("peer", label, "MiB", [memory[name]], "extra, at the peak of a step")
    for name, (worker, _) in sides.items():
        if worker is ours:
            for other in (name for name, (worker, _) in sides.items() if worker is theirs):
                label = f"{name} against {other}, {size}"
                yield Measurement("peer", label, "x faster", ratios(times[other], times[name]))
                yield Measurement("peer", label, "x faster by processor time", ratios(worked[other], worked[name]))


def _yeast(settings, python: str, checkout: pathlib.Path, folder: pathlib.Path) -> Iterator[Measurement]:
    flags = ("--queue_size=256", *([f"--data_dir={settings.data_dir}"] if settings.data_dir else []))

    def our_steps(method: str) -> float:
        rates = steps_per_second(folder / "runs", "yeast", 1, windows=1, flags=(*flags, f"--method={method}"))
        return rates[0][1]

    def their_steps(name: str) -> float:
        with Worker(python, "tools.benchmarks.peer_worker", [str(checkout), "yeast", name], cores=1) as theirs:
            run = theirs.run(name, SECONDS)
        return run["steps"] / run["cpu_seconds"]

    theirs = ("as shipped", "maths alone")
    sides = {f"MulSupCon, {name}": lambda name=name: their_steps(name) for name in theirs}
    sides |= {f"our {method}, whole run": lambda method=method: our_steps(method) for method in ("mulsupcon", "cld")}
    found = in_turn(sides, settings.repeats)
    for name, values in found.items():
        yield Measurement(
            "peer", f"yeast, batch 64, queue 256, 1 processor: {name}", "steps/s of processor time", values
        )
    for name in theirs:
        for method in ("mulsupcon", "cld"):
            label = f"yeast: our {method}, whole run, against {name}"
            values = ratios(found[f"our {method}, whole run"], found[f"MulSupCon, {name}"])
            yield Measurement("peer", label, "x faster by processor time", values)

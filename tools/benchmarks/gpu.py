"""One setting of `gpu.sh`, in a process of its own: `python -m tools.benchmarks.gpu SETTING FOLDER`.

Prints a line of JSON for each figure, as soon as it is known.
"""

import functools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable

from mulsupcon_tf.config.command_line import import_tensorflow_quietly
from tools.benchmarks.images import Case, batch_size, build, name_of, scale
from tools.benchmarks.loss import Size, loss_step, seconds_of
from tools.benchmarks.precision import POLICIES, matmul_rate, policy

SMALL = bool(os.environ.get("GPU_SMALL"))
CASE = Case("resnet8", 32, 4, queue_size=8, steps=1) if SMALL else Case("resnet50", 224, 8, steps=1)
LOSS = Size(batch=8, keys=40, width=4, labels=3) if SMALL else Size(keys=65_792, labels=1000)
ROUNDS = 3
FIRST_STEPS = 5  # whose losses are shown: they are the same in all settings but for rounding


def product(report: Callable) -> None:
    """What the card can do: products of large matrices."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    report("devices", [tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in gpus])
    for precision in POLICIES:
        report(f"matrix product in {precision}, GFLOP/s", [matmul_rate(precision, gpu=bool(gpus))])


def step(report: Callable, *, precision: str, xla: bool = False, in_place: bool = True) -> None:
    """The training step on a batch in memory."""
    import keras

    from mulsupcon_tf.training.devices import NORMALISE_IN_PLACE
    from mulsupcon_tf.utils.graphs import compiled

    keras.utils.set_random_seed(0)
    if precision != "float32":
        os.environ[NORMALISE_IN_PLACE] = str(int(in_place))
    with policy(precision):
        model, data = build(CASE)
    run = compiled(lambda: model.train_step(data), jit_compile=xla or None)
    start = time.perf_counter()
    results = [{name: float(value) for name, value in run().items()}]
    report("seconds to the first step", [time.perf_counter() - start])
    results += [{name: float(value) for name, value in run().items()} for _ in range(FIRST_STEPS - 1)]
    report("mean of the losses so far", [result["loss"] for result in results])
    report("bad steps so far", [result["bad_steps"] for result in results])
    count = CASE.steps * scale()
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(count):
            loss = run()["loss"]
        loss.numpy()
        report(f"{name_of(CASE)}, samples/s", [count * batch_size(CASE) / (time.perf_counter() - start)])


def blocks(report: Callable, *, as_on_a_processor: bool = False) -> None:
    """The loss core of `cld` over a long queue, in blocks by the card's memory or of 4096 rows."""
    from mulsupcon_tf.models import key_queue

    if as_on_a_processor:
        key_queue.memory_of_gpu = lambda: None
    core = loss_step(LOSS, "cld")
    report(f"cld, {LOSS}, ms", [1e3 * seconds_of(core) for _ in range(ROUNDS)])


def profile(report: Callable, *, folder: pathlib.Path) -> None:
    """Three steps in bfloat16 as TensorBoard's profiler sees them."""
    import tensorflow as tf

    from mulsupcon_tf.utils.graphs import compiled

    with policy("bfloat16"):
        model, data = build(CASE)
    run = compiled(lambda: model.train_step(data))
    run()["loss"].numpy()
    with tf.profiler.experimental.Profile(str(folder / "profile")):
        for _ in range(3):
            loss = run()["loss"]
        loss.numpy()
    report("files of the profile", [str(path) for path in (folder / "profile").rglob("*.xplane.pb")])


def main(setting: str, folder: str) -> None:
    """Measures a setting."""

    def report(figure: str, values: list) -> None:
        print(json.dumps({"setting": setting, "figure": figure, "values": values}), flush=True)

    start = time.perf_counter()
    import_tensorflow_quietly()
    report("seconds of the import", [time.perf_counter() - start])
    settings: dict[str, Callable] = {
        "product": product,
        **{precision: functools.partial(step, precision=precision) for precision in POLICIES},
        "xla-bfloat16": functools.partial(step, precision="bfloat16", xla=True),
        "bfloat16-channels-first": functools.partial(step, precision="bfloat16", in_place=False),
        "blocks": blocks,
        "blocks-of-4096": functools.partial(blocks, as_on_a_processor=True),
        "profile": functools.partial(profile, folder=pathlib.Path(folder)),
    }
    settings[setting](report)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Section precision: the training step in float32 and in mixed precision, and what it uses of the machine.

On a processor bfloat16, on a GPU float16 and XLA too; all in turn in one process. Arithmetic is counted as 8 times the
multiplications and additions of one forward pass: forward and twice as much backward of the query encoder, forward of
the key encoder. Its rate is held against that of a large matrix product in the same precision, measured in the same rounds.
With `--seeds` follow short runs on `digits` in each precision: the labels must be found as well as in float32.
"""

import contextlib
import functools
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator

from mulsupcon_tf.config.command_line import import_tensorflow_quietly
from tools.benchmarks.images import CASES, Case, batch_size, build, name_of, scale, seconds_of
from tools.benchmarks.measurement import Measurement, in_turn, ratios

SECTION = "precision"
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
EPOCHS = 4  # of the runs on `digits`


def measure(settings, cases: tuple[Case, ...] = CASES, epochs: int = EPOCHS) -> Iterator[Measurement]:
    """The matrix product, the steps of every case, and the runs."""
    import_tensorflow_quietly()
    import tensorflow as tf

    gpu = bool(tf.config.list_physical_devices("GPU"))
    precisions = ("float32", "bfloat16", "float16") if gpu else ("float32", "bfloat16")
    rates = in_turn({name: functools.partial(matmul_rate, name, gpu=gpu) for name in precisions}, settings.repeats)
    for name, values in rates.items():
        yield Measurement(SECTION, f"matrix product in {name}", "GFLOP/s", values)
    for case in cases:
        yield from _measure_steps(case, precisions, rates, settings.repeats, xla=gpu)
    if settings.seeds:
        yield from _measure_quality(precisions, settings, epochs)


def matmul_rate(precision: str, *, gpu: bool) -> float:
    """Billions of multiplications and additions a second of a square matrix product."""
    import tensorflow as tf

    side, count = (8192, 20) if gpu else (2048, 4)
    matrix = tf.cast(tf.random.stateless_normal((side, side), (0, 1)), precision)
    seconds = seconds_of(lambda each: tf.matmul(each, each), matrix, steps=count)()
    return 2 * side**3 / seconds / 1e9


def forward_flops(model) -> int:
    """Multiplications and additions of convolutions and dense layers for one sample."""
    import keras

    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            places = math.prod(size for size in layer.output.shape[1:-1])
            total += 2 * places * math.prod(layer.kernel.shape)
    return total


def _measure_steps(
    case: Case, precisions: tuple[str, ...], rates: dict[str, list[float]], repeats: int, *, xla: bool
) -> Iterator[Measurement]:
    candidates: dict[str, Callable[[], float]] = {}
    precision_of, flops = {}, 0.0
    for precision in precisions:
        with policy(precision):
            model, data = build(case)
        flops = 4 * batch_size(case) * (forward_flops(model.backbone) + forward_flops(model.projection_head))
        for compiled in (False, True) if xla else (False,):
            name = f"{precision}, XLA" if compiled else precision
            precision_of[name] = precision
            candidates[name] = seconds_of(
                model.train_step, data, steps=case.steps * scale(), jit_compile=compiled or None
            )
    seconds = in_turn(candidates, repeats)
    for name, values in seconds.items():
        title, size = f"{name_of(case)}: {name}", batch_size(case)
        yield Measurement(SECTION, title, "samples/s", [size / one for one in values], f"batch {size}")
        shares = [100 * flops / one / 1e9 / rate for one, rate in zip(values, rates[precision_of[name]], strict=True)]
        yield Measurement(SECTION, f"{title}, of the matrix product", "%", shares)
        if name != "float32":
            yield Measurement(SECTION, f"{title}, over float32", "x", ratios(seconds["float32"], values))


@contextlib.contextmanager
def policy(precision: str) -> Iterator[None]:
    """Layers that are made in here have this precision."""
    import keras

    keras.mixed_precision.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


def _measure_quality(precisions: tuple[str, ...], settings, epochs: int) -> Iterator[Measurement]:
    """How well labels are predicted from the nearest neighbours after a short run; one value a seed."""
    from mulsupcon_tf.commands.pretraining import pretrain
    from mulsupcon_tf.config.flags import PretrainConfig

    folder = pathlib.Path(settings.workdir) / "run"
    for precision in precisions:
        scores = []
        for seed in range(settings.seeds):
            shutil.rmtree(folder, ignore_errors=True)
            mixed = "none" if precision == "float32" else precision
            with policy(precision):
                pretrain(
                    PretrainConfig(
                        workdir=str(folder), mixed_precision=mixed, seed=seed, epochs=epochs, monitor_every=epochs
                    )
                )
            record = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
            scores.append(100 * record["knn_mAP"])
        yield Measurement(SECTION, f"digits in {precision}: mAP", "%", scores, f"{epochs} epochs, a value a seed")

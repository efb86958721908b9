"""The section loss: what a training step does after the encoders, against the bare product of queries and keys.

Timed is `ContrastivePretrainer.losses_of` on a model whose encoders do nothing, forward and backward, with the layer that
makes distributions and the diagnostics. The bare product is z·kᵀ and the gradient of z that follows from it; keys have none.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from mulsupcon_tf.utils.choices import METHODS
from tools.benchmarks.measurement import Measurement, in_turn, ratios

SECONDS = 0.2  # of one measurement, at least
SQUARE = 2048  # side of the matrices that give a processor's rate
SQUARE_ON_A_GPU = 8192


@dataclasses.dataclass(frozen=True)
class Size:
    """B anchors, K keys with the batch's own, D wide, C labels; three labels a sample, as in COCO."""

    batch: int = 256
    keys: int = 8448
    width: int = 128
    labels: int = 80

    def __str__(self) -> str:
        return f"B {self.batch}, K {self.keys}, D {self.width}, C {self.labels}"

    def operations(self, method: str) -> float:
        """Of the matrix products that the formulas need, forward and backward; the bare product when method is ""."""
        of_embeddings = 2 * self.batch * self.keys * self.width
        by_labels = 2 * self.batch * self.keys * self.labels
        carriers = 2 * self.labels * self.keys * self.width
        more = {
            "": 0,
            "self": 0,
            "mulsupcon": carriers,
            "truth": carriers,
            "cld": carriers + of_embeddings + 3 * by_labels,
            "rld": carriers + of_embeddings + 3 * by_labels,
        }
        return 2 * of_embeddings + more.get(method, of_embeddings + by_labels)


SIZES = tuple(Size(keys=keys, labels=labels) for keys in (8448, 65_792) for labels in (80, 1000))


def measure(settings, sizes: Iterable[Size] = SIZES) -> Iterator[Measurement]:
    """Time, ratio to the bare product, share of the machine's rate and extra memory of each method's loss."""
    for size in sizes:
        bare, *steps = "bare product", *loss_steps(size)
        candidates = {bare: bare_product(size), "square": square_product()} | dict(steps)
        figures = in_turn(
            {name: lambda step=step: seconds_of(step) for name, step in candidates.items()}, settings.repeats
        )
        side = _side_of_square()
        rates = [2 * side**3 / seconds for seconds in figures.pop("square")]
        for name, values in figures.items():
            operations = size.operations("" if name == bare else name)
            label = f"{name}, {size}"
            yield Measurement("loss", label, "ms", [1e3 * value for value in values], "forward and backward")
            if name != bare:
                yield Measurement("loss", label, "x bare product", ratios(values, figures[bare]), "in the same round")
                peaks = [extra_memory(candidates[name]) for _ in range(settings.repeats)]
                yield Measurement("loss", label, "MiB", peaks, "at the peak of a step, beside queue and batch")
            shares = [operations / value / rate for value, rate in zip(values, rates, strict=True)]
            yield Measurement("loss", label, "of the matmul rate", shares, "matrix products that the formulas need")
        yield Measurement("loss", f"{side} x {side} matmul, {size}", "GFLOP/s", [rate / 1e9 for rate in rates])


def loss_steps(size: Size, methods: Iterable[str] | None = None) -> Iterator[tuple[str, Callable]]:
    """Each method with its compiled losses and gradients over a full queue."""
    for method in methods or METHODS:
        yield method, loss_step(size, method)


def loss_step(size: Size, method) -> Callable:
    """Compiled losses and gradients of a method over a full queue; returns a tensor to wait for.

    Args:
        size: how much of everything.
        method: as in `ContrastivePretrainer`.
    """
    import keras
    import tensorflow as tf

    from mulsupcon_tf.losses.diagnostics import diagnostics
    from mulsupcon_tf.models.key_queue import CandidateKeys, gather_key_batch
    from mulsupcon_tf.models.pretrainer import ContrastivePretrainer, presence
    from mulsupcon_tf.utils.graphs import compiled

    rng = np.random.default_rng(0)
    nothing = [keras.Sequential([keras.Input((size.width,)), keras.layers.Identity()]) for _ in range(2)]
    capacity = size.keys - size.batch
    model = ContrastivePretrainer(*nothing, size.labels, method=method, queue_size=capacity)
    queued = 3 if model.method.uses_distributions else 2
    for start in range(0, capacity, 4096):
        model.queue.enqueue(*random_keys(rng, min(4096, capacity - start), size)[:queued])
    keys, labels, distributions = map(tf.constant, random_keys(rng, size.batch, size))
    if model.method.takes_true_distributions:
        labels = labels * distributions
    queries = tf.constant(_unit_rows(rng, size.batch, size.width))

    @compiled
    def step():
        with tf.GradientTape() as tape:
            tape.watch(queries)
            encoded = model.encode_queries(queries)
            own = labels if model.method.takes_true_distributions else encoded.distributions
            batch = gather_key_batch(keys, presence(labels), own)
            parts = model.losses_of(encoded, labels, CandidateKeys(batch, model.queue))
        parts |= diagnostics(encoded.embeddings, keys)
        gradients = tape.gradient(parts["loss"], [queries, *model.trainable_variables])
        return [each for each in [*parts.values(), *gradients] if each is not None]

    return lambda: step()[0]


def bare_product(size: Size) -> Callable:
    """Compiled z·kᵀ and the gradient of z for a given gradient of the product."""
    import tensorflow as tf

    from mulsupcon_tf.utils.graphs import compiled

    rng = np.random.default_rng(0)
    queries, keys = (tf.constant(_unit_rows(rng, rows, size.width)) for rows in (size.batch, size.keys))

    @compiled
    def product(queries, keys):
        similarities = tf.matmul(queries, keys, transpose_b=True)
        return tf.matmul(similarities, keys)

    return lambda: product(queries, keys)


def square_product() -> Callable:
    """Compiled product of two large square matrices."""
    import tensorflow as tf

    from mulsupcon_tf.utils.graphs import compiled

    side = _side_of_square()
    matrix = tf.random.stateless_normal((side, side), (0, 0))
    product = compiled(lambda each: tf.reduce_sum(tf.matmul(each, each)))  # a number to wait for, not the matrix
    return lambda: product(matrix)


def _side_of_square() -> int:
    import tensorflow as tf

    return SQUARE_ON_A_GPU if tf.config.list_physical_devices("GPU") else SQUARE


def seconds_of(step: Callable) -> float:
    """Wall seconds of one call, the mean over at least `SECONDS`; the first call is not counted."""
    step().numpy()
    done, start = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - start < SECONDS:
        step().numpy()
        done += 1
    return (time.perf_counter() - start) / done


def extra_memory(step: Callable) -> float:
    """MiB that TensorFlow's allocator hands out during a step at most, beyond what it had handed out before.

    It varies with the order in which threads take up what is ready.
    """
    import tensorflow as tf

    device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    step().numpy()
    tf.config.experimental.reset_memory_stats(device)
    before = tf.config.experimental.get_memory_info(device)["current"]
    step().numpy()
    return (tf.config.experimental.get_memory_info(device)["peak"] - before) / 2**20


def random_keys(rng, count: int, size: Size) -> list[np.ndarray]:
    """Unit rows `[count, D]`, labels and distributions `[count, C]`, float32."""
    labels = (rng.random((count, size.labels)) < 3 / size.labels).astype(np.float32)
    labels[np.arange(count), rng.integers(size.labels, size=count)] = 1.0
    odds = rng.random((count, size.labels), np.float32) ** 4
    rows = _unit_rows(rng, count, size.width), labels, odds / odds.sum(1, keepdims=True)
    return list(rows)


def _unit_rows(rng, count: int, width: int) -> np.ndarray:
    rows = rng.standard_normal((count, width), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)

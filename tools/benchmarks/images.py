"""Section images: what a training step costs beyond the encoders themselves, and how long it waits for its data.

For ResNet-50 at 224 pixels and a ResNet-18 at 64, in turn in one process, on one batch that is in memory:

  the encoders alone    forward and backward of the query encoder, forward of the key encoder
  with the optimizer    the same and the step of AdamW
  the training step     `ContrastivePretrainer.train_step` of cld, with a queue that is full

Then whole runs of `pretrain`, with input, log and TensorBoard: of ResNet-50 on JPEGs and of the defaults on `digits`.
The unit is samples/s; the share of a step that is not the encoders' is that of the same round.
"""

import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mulsupcon_tf.config.command_line import import_tensorflow_quietly
from tools.benchmarks.measurement import Measurement, in_turn

SECTION = "images"
NUM_LABELS = 80
IMAGES = 512  # JPEGs of COCO's size
ON_A_GPU = 8  # times the batch, the steps of a measurement and the JPEGs


class Case(NamedTuple):
    """A network, its image size, and how much of it is measured.

    Attributes:
        backbone: as in `--backbone`.
        image_size: side in pixels.
        batch_size: B on a processor; `ON_A_GPU` times as many on a GPU.
        queue_size: Q.
        steps: in one measurement; likewise.
        method: as in `--method`.
    """

    backbone: str
    image_size: int
    batch_size: int
    queue_size: int = 4096
    steps: int = 2
    method: str = "cld"


CASES = (Case("resnet50", 224, 8, steps=1), Case("resnet18", 64, 64))


def measure(settings, cases: tuple[Case, ...] = CASES, run_steps: int = 24) -> Iterator[Measurement]:
    """The steps of every case, then the whole runs."""
    import_tensorflow_quietly()
    for case in cases:
        yield from _measure_steps(case, settings.repeats)
    data_dir, run_steps = write_dataset(pathlib.Path(settings.workdir)), run_steps * scale()
    for case in cases:
        flags = {"dataset": "csv", "data_dir": str(data_dir), "backbone": case.backbone, "image_size": case.image_size}
        flags |= {"batch_size": batch_size(case), "queue_size": case.queue_size}
        yield from _measure_runs(f"{name_of(case)}, JPEGs", flags, settings, run_steps)
    yield from _measure_runs("digits", {"dataset": "digits"}, settings, 8 * run_steps)


def name_of(case: Case) -> str:
    """What a case is called in the table."""
    return f"{case.backbone} {case.image_size} px"


def batch_size(case: Case) -> int:
    """B on this machine."""
    return case.batch_size * scale()


def scale() -> int:
    """How many times as much is measured here as on a processor."""
    import tensorflow as tf

    return ON_A_GPU if tf.config.list_physical_devices("GPU") else 1


def build(case: Case):
    """The compiled model of a case with a full queue, and a batch for it: `((view, view), labels)`."""
    import numpy as np
    import tensorflow as tf

    from mulsupcon_tf.commands.phase import build_pretrainer
    from mulsupcon_tf.config.defaults import resolve_pretraining
    from mulsupcon_tf.config.flags import PretrainConfig
    from mulsupcon_tf.datasets.base import MultiLabelDataset, Split

    rng, shape, size = np.random.default_rng(0), (case.image_size, case.image_size, 3), batch_size(case)
    labels = (rng.random((size, NUM_LABELS)) < 3 / NUM_LABELS).astype(np.uint8)
    split = Split(np.zeros((size, *shape), np.uint8), labels)
    names = tuple(f"label {number}" for number in range(NUM_LABELS))
    dataset = MultiLabelDataset("benchmark", "image", names, dict.fromkeys(("train", "validation", "test"), split))
    config = PretrainConfig(
        workdir="",
        dataset="csv",
        method=case.method,
        backbone=case.backbone,
        image_size=case.image_size,
        batch_size=size,
        queue_size=case.queue_size,
    )
    config = resolve_pretraining(config, input_shape=shape, num_train=10**5)
    model = build_pretrainer(config, dataset, steps_per_epoch=1000)
    model.optimizer.build(model.trainable_variables)
    keys = rng.standard_normal(model.queue.keys.shape).astype(np.float32)
    model.queue.keys.assign(keys / np.linalg.norm(keys, axis=1, keepdims=True))
    model.queue.labels.assign(labels[rng.integers(0, size, case.queue_size)])
    if model.queue.distributions is not None:
        model.queue.distributions.assign(np.full((case.queue_size, NUM_LABELS), 1 / NUM_LABELS))
    model.queue.fill.assign(case.queue_size)
    views = [tf.constant(rng.uniform(0, 255, (size, *shape)).astype(np.float32)) for _ in range(2)]
    return model, (tuple(views), tf.constant(labels.astype(np.float32)))


def encoders_alone(model, *, optimize: bool) -> Callable:
    """A step of the encoders: forward and backward of the query side towards a fixed direction, forward of the key side."""
    import tensorflow as tf

    variables = [*model.backbone.trainable_variables, *model.projection_head.trainable_variables]

    def step(data):
        (query_view, key_view), _ = data
        features = model.key_backbone(key_view, training=True)
        keys = tf.cast(model.key_projection_head(features, training=True), tf.float32)
        with tf.GradientTape() as tape:
            features = model.backbone(query_view, training=True)
            queries = tf.cast(model.projection_head(features, training=True), tf.float32)
            loss = tf.reduce_mean(queries * keys)
        gradients = tape.gradient(loss, variables)
        if not optimize:
            return gradients
        of_all = {id(variable): gradient for variable, gradient in zip(variables, gradients, strict=True)}
        pairs = [
            (of_all.get(id(variable), tf.zeros(variable.shape)), variable) for variable in model.trainable_variables
        ]
        model.optimizer.apply_gradients(pairs)
        return [loss]

    return step


def seconds_of(step: Callable, data, *, steps: int, jit_compile: bool | None = None) -> Callable[[], float]:
    """A call that measures seconds a step of a compiled step, which has been run twice."""
    import tensorflow as tf

    from mulsupcon_tf.utils.graphs import compiled

    # What it returns is computed.
    run = compiled(lambda: step(data), jit_compile=jit_compile)

    def measured(count: int = steps) -> float:
        start = time.perf_counter()
        for _ in range(count):
            done = run()
        tf.nest.flatten(done)[0].numpy()
        tf.test.experimental.sync_devices()
        return (time.perf_counter() - start) / count

    measured(2)
    return measured


def _measure_steps(case: Case, repeats: int) -> Iterator[Measurement]:
    model, data = build(case)
    alone, optimized, whole = "the encoders alone", "with the optimizer", "the training step"
    steps = {
        alone: encoders_alone(model, optimize=False),
        optimized: encoders_alone(model, optimize=True),
        whole: model.train_step,
    }
    count = case.steps * scale()
    seconds = in_turn({name: seconds_of(step, data, steps=count) for name, step in steps.items()}, repeats)
    size, note = batch_size(case), f"batch {batch_size(case)}, queue {case.queue_size}, {NUM_LABELS} labels"
    for name, values in seconds.items():
        yield Measurement(SECTION, f"{name_of(case)}: {name}", "samples/s", [size / one for one in values], note)
    for name, base in (("over the encoders", alone), ("over encoders and optimizer", optimized)):
        shares = [100 * (one / other - 1) for one, other in zip(seconds[whole], seconds[base], strict=True)]
        yield Measurement(SECTION, f"{name_of(case)}: the training step {name}", "%", shares)


def _measure_runs(name: str, flags: dict, settings, steps: int) -> Iterator[Measurement]:
    """Samples/s and share of waiting of whole runs."""
    from mulsupcon_tf.commands.pretraining import pretrain
    from mulsupcon_tf.config.flags import PretrainConfig

    folder = pathlib.Path(settings.workdir) / "run"
    records = []
    for _ in range(settings.repeats):
        shutil.rmtree(folder, ignore_errors=True)
        pretrain(PretrainConfig(workdir=str(folder), max_steps=steps, monitor_every=0, **flags))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records.append(json.loads(lines[-1]))
    note = f"{steps} steps"
    yield Measurement(SECTION, f"{name}: whole run", "samples/s", [one["samples_per_second"] for one in records], note)
    yield Measurement(SECTION, f"{name}: waiting for data", "%", [100 * one["data_wait_share"] for one in records])


def write_dataset(folder: pathlib.Path) -> pathlib.Path:
    """JPEGs with random labels as `--dataset=csv` reads them."""
    import numpy as np

    from tools.benchmarks.input import write_images

    paths = write_images(folder / "images", IMAGES * scale())
    rng = np.random.default_rng(0)
    rows = ["file," + ",".join(f"label{number}" for number in range(NUM_LABELS))]
    for number, path in enumerate(paths):
        present = (rng.random(NUM_LABELS) < 2 / NUM_LABELS).astype(int)
        present[number % NUM_LABELS] = 1  # a label that no image has is an error
        rows.append(f"{pathlib.Path(path).name}," + ",".join(map(str, present)))
    (folder / "images" / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "images"

"""Run by `replicas_test.py` in a forked process: the CPU is cut in two before TensorFlow starts. Prints JSON."""

import gc
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time

import keras
import numpy as np
import tensorflow as tf

from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.losses.registry import build_method
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.optimizers.adamw import KernelAdamW
from mulsupcon_tf.optimizers.sgd import KernelSGD
from mulsupcon_tf.serving.saved_model import in_float32
from mulsupcon_tf.training.devices import Devices, open_devices
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.choices import CLD_KERNELS, METHODS
from mulsupcon_tf.utils.errors import TerminationError
from tests.helpers.tiny_datasets import tiny_vectors, write_npz

# The devices exchange keys, labels and distributions; of the other methods only some of these.
EXCHANGES_ALL = "cld"
FEATURES, WIDTH, LABELS, BATCH, STEPS = 5, 8, 3, 16, 10


def networks(dropout=0.0, momentum=0.5):
    """`momentum` of batch normalisation; None for none."""
    layers = keras.layers
    inputs, features = keras.Input((FEATURES,)), keras.Input((WIDTH,))
    normalise = layers.Identity if momentum is None else lambda: layers.BatchNormalization(momentum=momentum)
    x = normalise()(layers.Dense(WIDTH, kernel_regularizer=keras.regularizers.L2(0.1))(inputs))
    x = layers.Dropout(dropout)(layers.Activation("tanh")(x))
    head = layers.Dense(4)(normalise()(features))
    return keras.Model(inputs, x, name="backbone"), keras.Model(features, head, name="head")


def pretrainer(devices, method="cld", *, optimizer=None, dropout=0.0, normalisation=0.5, **settings):
    keras.utils.set_random_seed(0)
    with devices.strategy.scope():
        model = ContrastivePretrainer(
            *networks(dropout, normalisation),
            LABELS,
            method=method,
            **{"queue_size": 37, "momentum": 0.9, "bce_weight": 0.2, **settings},
        )
        model.compile(optimizer=optimizer() if optimizer else KernelSGD(0.01, weight_decay=0.01))
        model.optimizer.build(model.trainable_variables)
    return model


def classifier(devices, *, optimizer=None, **settings):
    keras.utils.set_random_seed(0)
    with devices.strategy.scope():
        model = MultiLabelClassifier(networks()[0], LABELS, **settings)
        optimizer = optimizer() if optimizer else KernelSGD(0.05, weight_decay=0.01)
        if isinstance(optimizer, KernelSGD):
            optimizer.scale_learning_rate(model.backbone.trainable_variables, 0.1)
        model.compile(optimizer=optimizer, loss=keras.losses.BinaryCrossentropy(from_logits=True))
        model.optimizer.build(model.trainable_variables)
    return model


def batch(model, step, size=BATCH, spoilt_row=None):
    """Labels are rarer in the second half, so that the shares differ in whatever is counted."""
    rng = np.random.default_rng(step)
    views = rng.normal(size=(2, size, FEATURES)).astype(np.float32)
    labels = (rng.random((size, LABELS)) < np.linspace(0.8, 0.1, size)[:, None]).astype(np.float32)
    if spoilt_row is not None:
        views[:, spoilt_row] = np.nan
    views = tuple(map(tf.constant, views)) if isinstance(model, ContrastivePretrainer) else tf.constant(views[0])
    return views, tf.constant(labels)


def train(model, devices, steps=range(STEPS), spoilt=()):
    """`spoilt`: (step, row) of a NaN."""

    @tf.function(autograph=False)  # as the training loop has it
    def step(data):
        devices.on_every_replica(model.train_step, data)

    for number in steps:
        step(batch(model, number, spoilt_row=dict(spoilt).get(number)))
    return devices.metrics_reader(model)()


def copies(devices, variable):
    return [np.asarray(copy, np.float64) for copy in devices.strategy.experimental_local_results(variable.value)]


def variables_of(model):
    return [*model.variables, *model.optimizer.variables]


def spread(model, devices):
    """The largest difference between the two copies of a variable."""
    pairs = [copies(devices, variable) for variable in variables_of(model)]
    assert all(len(pair) == devices.num_replicas for pair in pairs)
    return max(float(np.abs(pair[0] - pair[-1]).max()) for pair in pairs if pair[0].size)


def distance(one, other, devices):
    """The largest difference between the variables of a model on one device and of one on several."""
    pairs = zip(variables_of(one), variables_of(other), strict=True)
    pairs = [(np.asarray(mine, np.float64), copies(devices, yours)[0]) for mine, yours in pairs]
    return max(float(np.abs(mine - yours).max()) for mine, yours in pairs if mine.size)


def compare(build, two, **how):
    single = Devices()
    one, other = build(single), build(two)
    start = [variable.numpy() for variable in one.trainable_variables]
    expected, got = train(one, single, **how), train(other, two, **how)
    return {
        "distance": distance(one, other, two),
        "spread": spread(other, two),
        "metrics": max(abs(expected[name] - got[name]) / max(1.0, abs(expected[name])) for name in expected | got),
        "bad_steps": [int(one.bad_steps.numpy()), int(other.bad_steps.numpy())],
        "iterations": int(other.optimizer.iterations.numpy()),
        "movement": max(
            float(np.abs(v.numpy() - w).max()) for v, w in zip(one.trainable_variables, start, strict=True)
        ),
    }


def float16_overflow_on_the_second_replica(two):
    """The NaN, which is what an overflow becomes, is in its share alone."""
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    model = pretrainer(two, bce_weight=0.0, optimizer=lambda: KernelAdamW(0.01))
    train(model, two, range(3))
    counters = {id(model.bad_steps), id(model.bad_steps_in_row)}
    kept = [variable for variable in model.variables if id(variable) not in counters]
    before, scale = [copies(two, variable) for variable in kept], float(model.optimizer.dynamic_scale.numpy())
    bad_before = int(model.bad_steps.numpy())
    train(model, two, [3], spoilt=[(3, BATCH - 1)])
    keras.mixed_precision.set_dtype_policy("float32")
    pairs = zip(before, [copies(two, variable) for variable in kept], strict=True)
    return {
        "moved": max(float(np.abs(old[replica] - new[replica]).max()) for old, new in pairs for replica in range(2)),
        "bad_steps": int(model.bad_steps.numpy()) - bad_before,
        "scale": float(model.optimizer.dynamic_scale.numpy()) / scale,
        "spread": spread(model, two),
    }


def fit_with_a_short_last_batch(build, two):
    """27 samples in batches of 8: of the last batch one replica gets two samples and the other one."""
    losses = []
    for devices in (Devices(), two):
        model = build(devices)
        data = tf.data.Dataset.from_tensor_slices(batch(model, 0, size=27)).batch(8)
        trained = model.fit(data, epochs=2, verbose=0).history["loss"]
        judged = model.evaluate(data, verbose=0, return_dict=True)["loss"]
        losses.append([*trained, judged])
    return losses


def dropout(two):
    model = pretrainer(two, dropout=0.5)
    two.seed_replicas_differently(model)
    seeds = [copies(two, v) for v in model.variables if v.name == "seed_generator_state"]
    train(model, two, range(2), spoilt=[(1, 3)])
    after = [copies(two, v) for v in model.variables if v.name == "seed_generator_state"]
    return {"before": np.array(seeds).tolist(), "after": np.array(after).tolist()}


def float32_twin(two):
    """Made before training, it must leave the model in training as it is."""
    model = classifier(two)
    twin = in_float32(model)
    normalised = [
        [layer.synchronized for layer in each.backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
        for each in (model, twin)
    ]
    pairs = zip(model.weights, twin.weights, strict=True)
    return {
        "synchronised": normalised,
        "copies": [len(copies(two, variable)) for variable in twin.weights],
        "distance": max(float(np.abs(copies(two, mine)[0] - yours.numpy()).max()) for mine, yours in pairs),
    }


def checkpoint_of(workdir):
    """Every array of the newest checkpoint, and its progress without the time that it took."""
    newest = max((workdir / "checkpoints").iterdir())
    with np.load(newest) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "progress"}
        return arrays, json.loads(str(archive["progress"])) | {"seconds": 0, "timed_seconds": 0, "timed_steps": 0}


def continued_runs(folder):
    """Both phases on two devices; pretraining is ended by SIGTERM at its first checkpoint and continued."""
    data = str(write_npz(tiny_vectors(), folder / "data"))
    common = {
        "dataset": "npz",
        "data_dir": data,
        "batch_size": 16,
        "strategy": "mirrored",
        "logical_devices": 2,
        "checkpoint_every": "3",
        "steps_per_execution": 1,
    }
    settings = common | {"epochs": 15, "optimizer": "lars", "learning_rate": 0.1}
    pretrain(PretrainConfig(workdir=str(folder / "whole"), **settings))
    config, ended = PretrainConfig(workdir=str(folder / "parts"), **settings), None
    signaller = threading.Thread(target=end_at_first_checkpoint, args=(folder / "parts" / "checkpoints",))
    signaller.start()
    try:
        pretrain(config)
    except TerminationError as error:
        ended = error.exit_status
    signaller.join()
    pretrain(config)
    (arrays, progress), (continued, progress_too) = (checkpoint_of(folder / name) for name in ("whole", "parts"))
    summary = finetune(
        FinetuneConfig(workdir=str(folder / "tuned"), pretrained=str(folder / "parts"), epochs=3, **common)
    )
    return {
        "ended": ended,
        "differing": [name for name in arrays.keys() | continued if not np.array_equal(arrays[name], continued[name])],
        "progress": [progress, progress_too],
        "epochs": [len(RunDirectory(folder / name).epochs()) for name in ("whole", "parts", "tuned")],
        "mAP": summary["val"]["mAP"],
    }


def end_at_first_checkpoint(checkpoints):
    while not list(checkpoints.glob("step-*.npz")):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)


def main(part):
    gc.set_threshold(100_000, 10, 10)  # looking through graphs for garbage takes a fifth of the time
    two = open_devices(TrainingConfig(workdir="none", strategy="mirrored", logical_devices=2))
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # takes longer than these graphs
    results = {}
    if part in ("float32", "others in float32", "mixed_bfloat16"):
        methods = {"float32": {EXCHANGES_ALL}, "others in float32": set(METHODS) - {EXCHANGES_ALL}}.get(part, METHODS)
        keras.mixed_precision.set_dtype_policy("mixed_bfloat16" if part == "mixed_bfloat16" else "float32")
        for method in methods:
            results[method] = compare(lambda devices, method=method: pretrainer(devices, method), two)
        results["classifier"] = compare(classifier, two)
    if part == "mixed_bfloat16":
        keras.mixed_precision.set_dtype_policy("float32")
        results["linear probe"] = compare(lambda devices: classifier(devices, linear_probe=True), two)
        forms = {
            "anchors": build_method("mulsupcon", average="anchor"),
            "live": build_method("rld", own_distribution="live"),
            **{kernel: build_method("cld", cld_kernel=kernel) for kernel in CLD_KERNELS[1:]},
        }
        for name, method in forms.items():
            results[name] = compare(lambda devices, method=method: pretrainer(devices, method), two)
    parts = {"method": "self", "gradient_accumulation_steps": 2}
    # The parts of a batch, whose statistics normalise them, are others on two devices.
    if part == "further faults":
        results["parts"] = compare(lambda devices: pretrainer(devices, normalisation=None, **parts), two)
        model = pretrainer(two, **parts)
        results["normalised_parts"] = {"losses": train(model, two, range(2)), "spread": spread(model, two)}
        results["short_batch"] = fit_with_a_short_last_batch(pretrainer, two)
    if part == "faults":
        recovery = parts | {"method": "cld"}  # the same way with more losses
        results["parts of recovery"] = compare(lambda devices: pretrainer(devices, normalisation=None, **recovery), two)
        results["bad_share"] = compare(classifier, two, spoilt=[(3, BATCH - 1), (4, 0)])
        results["overflow"] = float16_overflow_on_the_second_replica(two)
        results["short_batch"] = fit_with_a_short_last_batch(classifier, two)
        results["dropout"] = dropout(two)
        results["twin"] = float32_twin(two)
    if part == "runs":
        with tempfile.TemporaryDirectory() as folder:
            results = continued_runs(pathlib.Path(folder))
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])

"""Compares what users took from TensorFlow Addons with what this project uses instead. See check_against_addons.sh.

    python -m tools.addons.check_against_addons addons  A.npz   # with tensorflow-addons 0.23
    python -m tools.addons.check_against_addons project B.npz   # with this project
    python -m tools.addons.check_against_addons compare A.npz B.npz

The first two make the same data from a seed and write their results under the same names; the third prints a table and
fails when a difference is larger than its tolerance.
"""

import json
import os
import platform
import sys

import numpy as np

BATCH, THRESHOLDS = 64, (0.3, 0.5)
STEPS, SHOWN_STEPS = 100, (1, 10, 100)
RATE, DECAY = 0.01, 0.1
# Largest difference that rounding explains. None: the two differ by convention, and the table says by how much.
TOLERANCES = {
    "F1Score macro": 1e-6,
    "F1Score micro": 1e-6,
    "HammingLoss": 1e-6,
    "LAMB, no decay": 2e-5,
    "LAMB, decay": None,
    "AdamW, same arguments": None,
    "AdamW, decay translated": 2e-5,
}


def metric_data():
    """Labels and probabilities `[N, C]`, with a label that nobody has and that is never predicted, and bare samples."""
    rng = np.random.default_rng(0)
    labels = (rng.random((1000, 14)) < rng.uniform(0.02, 0.5, 14)).astype("float32")
    probabilities = np.clip(0.6 * labels + rng.uniform(0, 0.6, labels.shape) - 0.1, 0.001, 0.999).astype("float32")
    labels[:5] = 0
    labels[:, 3], probabilities[:, 3] = 0, 0.01
    return labels, probabilities


def optimizer_data():
    """A kernel `[20, 14]`, and gradients for `STEPS` steps: of changing scale, at times 0."""
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(STEPS, 20, 14)) * 10.0 ** rng.uniform(-4, 1, (STEPS, 1, 1))
    gradients[20:23] = 0
    return rng.normal(size=(20, 14)).astype("float32"), gradients.astype("float32")


def metric_results(metrics_of, result_of):
    """Values by name: each metric is fed batch by batch, at each threshold."""
    labels, probabilities = metric_data()
    results = {}
    for threshold in THRESHOLDS:
        for name, metric in metrics_of(threshold).items():
            for start in range(0, len(labels), BATCH):
                metric.update_state(labels[start : start + BATCH], probabilities[start : start + BATCH])
            results[f"{name} | threshold {threshold}"] = result_of(name, metric)
    return results


def optimizer_results(optimizers, tensorflow):
    """The kernel after some steps, by name of the optimizer."""
    start, gradients = optimizer_data()
    results = {}
    for name, optimizer in optimizers.items():
        kernel = tensorflow.Variable(start)
        for step, gradient in enumerate(gradients, 1):
            optimizer.apply_gradients([(tensorflow.constant(gradient), kernel)])
            if step in SHOWN_STEPS:
                results[f"{name} | after {step} steps"] = kernel.numpy()
    return results


def addons_results():
    """What tensorflow-addons gives."""
    import tensorflow as tf
    import tensorflow_addons as tfa

    classes = metric_data()[0].shape[1]

    def metrics_of(threshold):
        return {
            "F1Score macro": tfa.metrics.F1Score(classes, average="macro", threshold=threshold),
            "F1Score micro": tfa.metrics.F1Score(classes, average="micro", threshold=threshold),
            "HammingLoss": tfa.metrics.HammingLoss(mode="multilabel", threshold=threshold),
        }

    optimizers = {
        "LAMB, no decay": tfa.optimizers.LAMB(RATE),
        "LAMB, decay": tfa.optimizers.LAMB(RATE, weight_decay=DECAY),
        "AdamW, same arguments": tfa.optimizers.AdamW(learning_rate=RATE, weight_decay=DECAY),
        "AdamW, decay translated": tfa.optimizers.AdamW(learning_rate=RATE, weight_decay=RATE * DECAY),
    }
    results = metric_results(metrics_of, lambda name, metric: metric.result().numpy())
    results |= optimizer_results(optimizers, tf)
    return results, {"tensorflow": tf.__version__, "tensorflow-addons": tfa.__version__}


def project_results():
    """What this project and Keras 3 give."""
    import keras
    import tensorflow as tf

    from mulsupcon_tf import HammingAccuracy, KernelAdamW, MacroF1Score, MicroF1Score

    classes = metric_data()[0].shape[1]

    def metrics_of(threshold):
        return {
            "F1Score macro": MacroF1Score(classes, threshold=threshold),
            "F1Score micro": MicroF1Score(threshold=threshold),
            "HammingLoss": HammingAccuracy(threshold=threshold),
        }

    def result_of(name, metric):
        value = float(metric.result())
        return 1 - value if name == "HammingLoss" else value

    optimizers = {
        "LAMB, no decay": keras.optimizers.Lamb(RATE, epsilon=1e-6),
        "LAMB, decay": keras.optimizers.Lamb(RATE, epsilon=1e-6, weight_decay=DECAY),
        "AdamW, same arguments": KernelAdamW(RATE, weight_decay=DECAY),
        "AdamW, decay translated": KernelAdamW(RATE, weight_decay=DECAY),
    }
    results = metric_results(metrics_of, result_of) | optimizer_results(optimizers, tf)
    return results, {"tensorflow": tf.__version__, "keras": keras.__version__}


def write(path, results, versions):
    """Writes results, the data they came from, and versions."""
    labels, probabilities = metric_data()
    kernel, gradients = optimizer_data()
    versions = versions | {"numpy": np.__version__, "python": platform.python_version()}
    data = {
        "data labels": labels,
        "data probabilities": probabilities,
        "data kernel": kernel,
        "data gradients": gradients,
    }
    np.savez(path, versions=json.dumps(versions), **data, **results)


def compare(addons_path, project_path):
    """Prints the table; returns the exit status."""
    addons, project = np.load(addons_path), np.load(project_path)
    if set(addons) != set(project):
        raise SystemExit(f"the two must have the same results. Received: {sorted(set(addons) ^ set(project))}")
    for name in (name for name in addons if name.startswith("data ")):
        if not np.array_equal(addons[name], project[name]):
            raise SystemExit(f"both must see the same data. Received: two versions of {name}")
    for side, file in (("addons", addons), ("project", project)):
        print(
            f"{side}: " + ", ".join(f"{name} {version}" for name, version in json.loads(str(file["versions"])).items())
        )
    print("\n| what | addons | project | largest difference | tolerance | |\n|---|---|---|---|---|---|")
    failed = False
    for name in (name for name in addons if " | " in name):
        here, there = addons[name], project[name]
        difference = float(np.abs(here.astype("float64") - there).max())
        tolerance = TOLERANCES[name.split(" | ")[0]]
        verdict = "by convention" if tolerance is None else "same" if difference <= tolerance else "DIFFERS"
        failed |= verdict == "DIFFERS"
        # Of a kernel the mean size stands for its 280 numbers; the difference is the largest of them.
        shown = (f"{float(np.abs(values).mean()):.6f}" for values in (here, there))
        label = name.replace(" | ", ", ")
        print(
            f"| {label} | {' | '.join(shown)} | {difference:.1e} | {'-' if tolerance is None else tolerance} | {verdict} |"
        )
    return int(failed)


def main(side, *paths):
    """Runs one side, or compares both."""
    if side == "compare":
        return compare(*paths)
    write(*paths, *{"addons": addons_results, "project": project_results}[side]())
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(*sys.argv[1:]))

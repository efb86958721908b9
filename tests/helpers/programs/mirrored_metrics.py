"""Run by `evaluation/keras_metrics_test.py`: the CPU is cut in two before TensorFlow starts. Prints "equal" at its end."""

import numpy as np
import tensorflow as tf

from mulsupcon_tf.evaluation import keras_metrics
from mulsupcon_tf.evaluation.keras_average_precision import MeanAveragePrecision


def build():
    return [
        MeanAveragePrecision(3),
        keras_metrics.PrecisionAtOne(),
        keras_metrics.MacroF1Score(3),
        keras_metrics.MicroF1Score(),
        keras_metrics.HammingAccuracy(),
        keras_metrics.ExampleF1Score(),
    ]


def main():
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    rng = np.random.default_rng(0)
    truth, scores = (rng.random((24, 3)) < 0.4).astype("float32"), rng.random((24, 3)).astype("float32")
    with strategy.scope():
        mirrored = build()
    data = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((truth, scores)).batch(8))

    @tf.function
    def step(batch):
        def update(labels, probabilities):
            for metric in mirrored:
                metric.update_state(labels, probabilities)

        strategy.run(update, args=batch)

    for batch in data:
        step(batch)
    for single, several in zip(build(), mirrored, strict=True):
        single.update_state(truth, scores)
        assert abs(float(single.result()) - float(several.result())) < 1e-6, single.name
        assert float(single.result()) > 0.1, single.name
    print("equal")


if __name__ == "__main__":
    main()

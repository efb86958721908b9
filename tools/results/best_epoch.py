"""What is won by reporting, for each metric, the epoch that is best on test: a control for published numbers.

  python -m tools.results.best_epoch --data_dir=DIR --datasets=scene,yeast

Trains a classifier by binary cross-entropy alone on all of train, features masked, at a constant learning rate, and judges test
after each epoch with the thresholds that are best there, as the paper's protocol does. Prints the six metrics of the last epoch
and, for each, its best epoch: the second is what no one can know without the test labels.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.config.fields import Validated, flag, require
from mulsupcon_tf.evaluation.results import METRIC_NAMES


@dataclasses.dataclass(frozen=True, kw_only=True)
class BestEpochConfig(Validated):
    """Settings of `tools/results/best_epoch.py`."""

    data_dir: str | None = flag(None, "Folder of Mulan's sets. Required.", path=True)
    datasets: str = flag("scene,yeast", "Sets of vectors, separated by commas.")
    seeds: str = flag("0,1,2", "Seeds, separated by commas.")
    epochs: int = flag(150, "Passes over train.", minimum=1)
    batch_size: int = flag(128, "Samples a step.", minimum=1)


def main(settings: BestEpochConfig) -> None:
    """Trains each set with each seed and prints a table."""
    require(settings, "data_dir")
    print(f"| set | epoch | {' | '.join(METRIC_NAMES)} |\n|---|---|{'---|' * len(METRIC_NAMES)}")
    for name in settings.datasets.split(","):
        runs = [scores_of_epochs(name, settings, int(seed)) for seed in settings.seeds.split(",")]
        for title, choice in (("last", last), ("best of each metric", best)):
            found = [choice(run) for run in runs]
            print(
                f"| {name} | {title} | {' | '.join(_cell([each[metric] for each in found]) for metric in METRIC_NAMES)} |"
            )


def last(epochs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of the last epoch."""
    return dict(epochs[-1])


def best(epochs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The highest value of each metric, each of an epoch of its own."""
    return {metric: max(each[metric] for each in epochs) for metric in epochs[0]}


def _cell(values: list[float]) -> str:
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{deviation}"


def scores_of_epochs(name: str, settings: BestEpochConfig, seed: int) -> list[dict[str, float]]:
    """The six metrics on test after each epoch."""
    import keras

    from mulsupcon_tf.datasets.registry import load_dataset
    from mulsupcon_tf.datasets.splitting import with_whole_train
    from mulsupcon_tf.evaluation.results import evaluate_predictions
    from mulsupcon_tf.evaluation.thresholds import choose_thresholds
    from mulsupcon_tf.input_pipeline.batches import training_batches
    from mulsupcon_tf.models.backbone_weights import Standardisation
    from mulsupcon_tf.models.backbones import build_backbone
    from mulsupcon_tf.models.classifier import MultiLabelClassifier

    dataset = with_whole_train(load_dataset(name, settings.data_dir))
    test = dataset.splits["test"]
    keras.utils.set_random_seed(seed)
    backbone = build_backbone("mlp", dataset.input_shape, standardisation=Standardisation.of(dataset.train_features))
    model = MultiLabelClassifier(backbone, dataset.num_labels)
    optimizer = keras.optimizers.AdamW(4e-4, weight_decay=1e-5)
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    masked = {"augmentation": "mask", "mask_rate": 0.4, "image_size": None}
    batches = training_batches(dataset, num_views=1, seed=seed, batch_size=settings.batch_size, **masked)
    epochs = []

    def judge(epoch: int, logs: Mapping[str, float] | None) -> None:
        logits = model(np.asarray(test.inputs), training=False)
        probabilities = keras.ops.convert_to_numpy(keras.ops.sigmoid(logits))
        thresholds = choose_thresholds(test.labels, probabilities)
        epochs.append(evaluate_predictions(test.labels, probabilities, thresholds))

    model.fit(
        batches,
        epochs=settings.epochs,
        steps_per_epoch=-(-len(dataset.splits["train"]) // settings.batch_size),
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=judge)],
        verbose=0,
    )
    return epochs


if __name__ == "__main__":
    run_binary(BestEpochConfig, main, usage=__doc__)

"""COCO and VOC mocked by `tfds.testing.mock_data`: from TFDS to the served model, by the functions of the binaries.

TFDS's builders give the features and the splits; the samples are noise with labels at random. `mock_data` takes them from
here (`as_dataset_fn`), since its own do not fit an object detection dataset that is read without decoding: it cannot
encode its bounding boxes, and the fields of one object list differ in length. TFDS learns the label names of `coco`
only from COCO's annotations, so here they are made up.
"""

import contextlib
import pathlib

import numpy as np
import pytest

from mulsupcon_tf.commands.evaluating import evaluate_run
from mulsupcon_tf.commands.exporting import export_run
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.predicting import predict
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import EvaluateConfig, ExportConfig, PredictConfig
from mulsupcon_tf.datasets.images.voc import CLASSES
from mulsupcon_tf.datasets.registry import load_dataset

COCO_LABELS = tuple(f"thing {number}" for number in range(80))
# Our dataset: TFDS's, its splits, the labels.
DATASETS = {
    "coco": ("coco/2014", ("train", "validation"), COCO_LABELS),
    "voc2007": ("voc/2007", ("train", "validation", "test"), CLASSES),
    "voc2012": ("voc/2012", ("train", "validation"), CLASSES),
}
NUM_SAMPLES = 20
SMALL = {"image_size": 32, "batch_size": 4, "epochs": 1, "max_steps": 2}


def made_up(features, split):
    """Samples with the fields that are read; images encoded as the dataset has them."""
    rng = np.random.default_rng(len(split))
    num_classes = features["objects"]["label"].num_classes
    for number in range(NUM_SAMPLES):
        pixels = rng.integers(0, 256, (*rng.integers(30, 60, 2), 3), dtype=np.uint8)
        # Each class is there: COCO's that are in no picture are left out of the labels.
        labels = rng.permutation([*range(number, num_classes, NUM_SAMPLES), *rng.integers(0, num_classes, number % 4)])
        yield {
            "image": features["image"].encode_example(pixels),
            "image/filename": f"{split}_{number:02d}.jpg",
            "objects": {"label": labels, "area": 1 + rng.integers(0, 99, len(labels))},
            "labels_no_difficult": np.unique(labels),
        }


@contextlib.contextmanager
def mocked(name, root):
    """`root` holds the metadata of a prepared dataset, whose samples are made up."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    dataset, splits, labels = DATASETS[name]
    builder = tfds.builder(dataset, data_dir=str(root))
    builder.info.features["objects"]["label"].names = list(labels)
    files = tfds.core.ShardedFileTemplate(builder.data_path, dataset_name=builder.name, filetype_suffix="tfrecord")
    infos = [
        tfds.core.SplitInfo(
            name=split, shard_lengths=[NUM_SAMPLES], num_bytes=1, filename_template=files.replace(split=split)
        )
        for split in splits
    ]
    builder.info.set_splits(tfds.core.splits.SplitDict(infos))
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)

    def as_dataset(self, split, **_):
        features = self.info.features
        integers = tf.TensorSpec([None], tf.int64)
        signature = {
            "image": tf.TensorSpec([], tf.string),
            "image/filename": tf.TensorSpec([], tf.string),
            "objects": {"label": integers, "area": integers},
            "labels_no_difficult": integers,
        }
        return tf.data.Dataset.from_generator(lambda: made_up(features, split), output_signature=signature)

    use_files = tfds.testing.MockPolicy.USE_FILES
    with tfds.testing.mock_data(policy=use_files, data_dir=str(builder.data_path), as_dataset_fn=as_dataset):
        yield builder.info.features


@pytest.mark.parametrize("name", DATASETS)
def test_mocked_samples_arrive_with_the_labels_that_tfds_gives(name, tmp_path):
    with mocked(name, tmp_path) as features:
        dataset = load_dataset(name, data_dir=str(tmp_path))
        expected = list(made_up(features, "test" if name == "voc2007" else "validation"))
    assert dataset.label_names == DATASETS[name][2]
    test = dataset.splits["test"]
    assert len(test) == len(expected)
    for path, labels, sample in zip(test.inputs.paths, test.labels, expected, strict=True):
        assert pathlib.Path(path).read_bytes() == sample["image"]
        assert np.flatnonzero(labels).tolist() == sorted(set(sample["objects"]["label"].tolist()))
    sizes = {split: len(part) for split, part in dataset.splits.items()}
    assert sizes == (
        {"train": 20, "validation": 20, "test": 20} if name == "voc2007" else {"train": 16, "validation": 4, "test": 20}
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "voc2007"])
def test_from_mocked_tfds_to_predictions(name, tmp_path):
    data = {"dataset": name, "data_dir": str(tmp_path / "tfds")}
    with mocked(name, tmp_path / "tfds"):
        pretrained = pretrain(
            PretrainConfig(**data, **SMALL, backbone="resnet8", queue_size=8, workdir=str(tmp_path / "a"))
        )
        finetuned = finetune(
            FinetuneConfig(**data, **SMALL, pretrained=str(tmp_path / "a"), workdir=str(tmp_path / "b"))
        )
        evaluated = evaluate_run(EvaluateConfig(workdir=str(tmp_path / "b"), split="test"))
    labels = list(DATASETS[name][2])
    assert pretrained["steps"] == finetuned["steps"] == 2
    assert finetuned["label_names"] == labels
    assert evaluated["test"] == finetuned["test"]
    export_run(ExportConfig(workdir=str(tmp_path / "b"), output=str(tmp_path / "model")))
    images = sorted(str(path) for path in (tmp_path / "tfds" / "mulsupcon_tf" / name / "test").iterdir())
    records = list(predict(PredictConfig(saved_model=str(tmp_path / "model")), images[:3]))
    assert [record["file"] for record in records] == images[:3]
    for record in records:
        assert list(record["probabilities"]) == labels
        assert np.isfinite(list(record["probabilities"].values())).all()

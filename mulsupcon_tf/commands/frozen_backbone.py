"""`--freeze_backbone`: the features of all images are computed once, kept on disk, and trained on in place of the images."""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil

import filelock
import keras
import numpy as np

from mulsupcon_tf.commands.feature_extraction import BATCH, Extractor
from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.datasets.arrays import npy_header
from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.models.backbone_weights import weights_hash
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving.saved_model import float32_policy
from mulsupcon_tf.utils.cache_folder import cache_folder
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import in_bytes

# Part of what names a file of features: raise it when images are decoded or encoded in another way.
_FORMAT = 1
_TRAINED = "trained"  # what the network on the features is called in the whole
_logger = logging.getLogger("mulsupcon_tf")


@dataclasses.dataclass(frozen=True)
class FrozenBackbone:
    """A network that is not trained, and what it makes of a dataset.

    Attributes:
        backbone: model from `[B, H, W, channels]` to `[B, R]`.
        weights: its `weights_hash`.
        features: the dataset with vectors `[N, R]`, memory-mapped, in place of its images.
    """

    backbone: keras.Model
    weights: str
    features: MultiLabelDataset

    @classmethod
    def open(cls, config: TrainingConfig, images: MultiLabelDataset) -> "FrozenBackbone":
        """Builds the network of a resolved config and computes the features that are not on disk yet.

        Args:
            config: resolved settings with `--freeze_backbone`.
            images: the dataset, without files that cannot be read.

        Raises:
            InputError: the network cannot be had, an image cannot be read, or the disk has too little room.
        """
        assert config.backbone_weights is not None
        extractor = Extractor.build(config.backbone, config.backbone_weights, images, config.image_size)
        weights = weights_hash(extractor.backbone)
        folder = pathlib.Path(config.feature_cache) if config.feature_cache else cache_folder("features")
        return cls(extractor.backbone, weights, with_features(images, extractor, weights, folder))

    def whole_classifier(self, head: MultiLabelClassifier) -> MultiLabelClassifier:
        """The classifier of raw images, whose weights are those of this network and of a classifier on its features."""
        inputs = keras.Input(self.backbone.input_shape[1:])
        with float32_policy():
            # Both networks have the same name, which two layers of one model must not have.
            parts = [
                keras.Model(model.input, model.output, name=name)
                for name, model in (("frozen", self.backbone), (_TRAINED, head.backbone))
            ]
            parts[0].trainable = False
            network = keras.Model(inputs, parts[1](parts[0](inputs)), name="backbone")
            whole = type(head)(**head.get_config() | {"backbone": network})
        for there, here in zip(_beside_network(whole), _beside_network(head), strict=True):
            there.assign(here)
        return whole


def trained_part(backbone: keras.Model) -> keras.Model:
    """The network that was trained: that of a `whole_classifier` on the features of the frozen one, else the backbone."""
    return next((layer for layer in backbone.layers if layer.name == _TRAINED), backbone)


def _beside_network(model: MultiLabelClassifier) -> list[keras.Variable]:
    """The variables of a classifier without those of its backbone: head, and gallery where there is one."""
    below = {id(variable) for variable in model.backbone.variables}
    return [variable for variable in model.variables if id(variable) not in below]


def with_features(
    images: MultiLabelDataset, extractor: Extractor, weights: str, folder: pathlib.Path
) -> MultiLabelDataset:
    """The dataset with features in place of its images: from files of the folder, which are written where they are not there.

    A file belongs to one split and is named by all that features depend on: the network's weights, the size of the images,
    and the images; of image files their names below the data's folder, sizes and times of change.

    Args:
        images: N samples in each split.
        extractor: makes the features.
        weights: hash of the extractor's weights.
        folder: of the files.

    Raises:
        InputError: an image cannot be read, or the disk has too little room.
    """
    shape = extractor.backbone.input_shape[1:]
    paths = {
        name: folder / f"{_digest(_FORMAT, weights, shape, *_identity(split.inputs))}.npy"
        for name, split in images.splits.items()
    }
    missing = [name for name, path in paths.items() if not path.exists()]
    count = sum(len(images.splits[name]) for name in missing)
    size = 4 * count * extractor.num_features
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise InputError(
                f"--feature_cache must have room for {in_bytes(size)}. Received: {folder} with {in_bytes(free)}"
            )
        _logger.info(
            "computed once: %d features of %d images, %s in %s", extractor.num_features, count, in_bytes(size), folder
        )
    else:
        _logger.info("features of the images are in %s", folder)
    splits = {}
    for name, path in paths.items():
        split = images.splits[name]
        splits[name] = Split(_features(path, split, extractor, name), split.labels, split.distributions)
    return MultiLabelDataset(images.name, "vector", images.label_names, splits)


def _features(path: pathlib.Path, split: Split, extractor: Extractor, name: str) -> np.ndarray:
    """`[N, R]` float32, memory-mapped; one process at a time computes those of a file, the others wait for it."""
    if not path.exists():
        with filelock.FileLock(path.with_suffix(".lock")):
            if not path.exists():
                _compute(path, split, extractor, name)
    return np.load(path, mmap_mode="r")


def _compute(path: pathlib.Path, split: Split, extractor: Extractor, name: str) -> None:
    """Writes the file; where an earlier process was interrupted, the rows that it has put on disk are kept."""
    row = 4 * extractor.num_features
    header = npy_header((len(split), extractor.num_features))
    partial = path.with_suffix(".partial")
    with partial.open("r+b" if partial.exists() else "w+b") as file:
        rows = max(0, file.seek(0, os.SEEK_END) - len(header)) // row
        # The last batch may have been on its way to the disk when the power failed.
        done = max(0, rows // BATCH - 1) * BATCH
        file.seek(0)
        file.write(header)
        file.truncate(len(header) + done * row)
        file.seek(0, os.SEEK_END)
        for block in extractor.blocks(split, name, first_row=done):
            file.write(block.astype("<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)


def _identity(inputs: np.ndarray | ImageFiles) -> tuple[str, ...]:
    """What the images are, as texts."""
    if isinstance(inputs, ImageFiles):
        return (_digest(inputs.names, inputs.stamps()),)
    return str(inputs.shape), hashlib.sha256(inputs.tobytes()).hexdigest()


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

"""`--freeze_backbone`: the features of all images are computed once, kept on disk, and trained on in place of the images."""

import dataclasses
import logging
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import filelock
import keras
import numpy as np

from mulsupcon_tf.commands.feature_extraction import BATCH, Extractor, FixedView, digest, identity
from mulsupcon_tf.config.common_flags import LARGEST_SEED, TrainingConfig
from mulsupcon_tf.config.defaults import image_augmentation
from mulsupcon_tf.datasets.arrays import npy_header
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.fixed_views import FixedViews
from mulsupcon_tf.models.backbone_weights import weights_hash
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving.saved_model import float32_policy
from mulsupcon_tf.training.checkpoints import CheckpointStore
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.atomic_file import naming
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
        extractor: the network.
        weights: its `weights_hash`.
        features: the dataset with vectors `[N, R]`, memory-mapped, in place of its images.
    """

    extractor: Extractor
    weights: str
    features: MultiLabelDataset

    @classmethod
    def open(
        cls,
        config: TrainingConfig,
        images: MultiLabelDataset,
        runs: Mapping[str, RunDirectory],
        *,
        to_train: bool = True,
    ) -> "FrozenBackbone":
        """Builds the network of a resolved config and computes the features that are not on disk yet.

        Args:
            config: resolved settings with `--freeze_backbone`.
            images: the dataset, without files that cannot be read.
            runs: those that must have been trained on features of the same network, by the flag that names them; one
                that has not begun, and one of a version that did not note its network, may have had any.
            to_train: whether the views are wanted too that `--feature_views` asks for.

        Raises:
            InputError: the network cannot be had or is another than that of a run, an image cannot be read, or the disk
                has too little room.
        """
        assert config.backbone_weights is not None
        extractor = Extractor.build(config.backbone, config.backbone_weights, images, config.image_size)
        weights = weights_hash(extractor.backbone)
        for setting, run in runs.items():  # before features are computed, which may take hours
            then = _network_of(run)
            if then not in (None, weights):
                raise InputError(
                    f"{setting} must have been trained on features of these --backbone_weights, {config.backbone_weights} "
                    f"({weights}). Received: {run.path}, whose backbone had {then}"
                )
        views = _views(config, images) if to_train else None
        return cls(extractor, weights, with_features(images, extractor, weights, _folder(config), views))

    def whole_classifier(self, head: MultiLabelClassifier) -> MultiLabelClassifier:
        """The classifier of raw images, whose weights are those of this network and of a classifier on its features."""
        backbone = self.extractor.backbone
        inputs = keras.Input(backbone.input_shape[1:])
        with float32_policy():
            # Both networks have the same name, which two layers of one model must not have.
            parts = [
                keras.Model(model.input, model.output, name=name)
                for name, model in (("frozen", backbone), (_TRAINED, head.backbone))
            ]
            parts[0].trainable = False
            network = keras.Model(inputs, parts[1](parts[0](inputs)), name="backbone")
            whole = type(head)(**head.get_config() | {"backbone": network})
        for there, here in zip(_beside_network(whole), _beside_network(head), strict=True):
            there.assign(here)
        return whole


def _network_of(run: RunDirectory) -> str | None:
    """Hash of the network on whose features a run was trained, or has been so far; None where it does not say."""
    noted = run.read_summary() if run.finished else CheckpointStore(run.checkpoints).latest_progress()
    return noted.get("frozen_weights") or None


def trained_part(backbone: keras.Model) -> keras.Model:
    """The network that was trained: that of a `whole_classifier` on the features of the frozen one, else the backbone."""
    return next((layer for layer in backbone.layers if layer.name == _TRAINED), backbone)


def _beside_network(model: MultiLabelClassifier) -> list[keras.Variable]:
    """The variables of a classifier without those of its backbone: head, and gallery where there is one."""
    below = {id(variable) for variable in model.backbone.variables}
    return [variable for variable in model.variables if id(variable) not in below]


class _File(NamedTuple):
    """What one file of features is made of."""

    path: pathlib.Path
    title: str
    split: Split
    view: FixedView | None


def missing_features(config: TrainingConfig, images: MultiLabelDataset, extractor: Extractor) -> list[Split]:
    """The samples of which a run with these resolved settings would compute features: a split once for each view of it."""
    weights = weights_hash(extractor.backbone)
    files = _files(images, extractor, weights, _folder(config), _views(config, images))
    return [file.split for several in files.values() for file in several if not file.path.exists()]


def _folder(config: TrainingConfig) -> pathlib.Path:
    return pathlib.Path(config.feature_cache) if config.feature_cache else cache_folder("features")


def _views(config: TrainingConfig, images: MultiLabelDataset) -> dict[str, int]:
    """How many views of a sample are trained on, by split."""
    trained_on = ("train", "validation") if config.validation_fraction == 0 else ("train",)
    return {name: config.feature_views if name in trained_on else 1 for name in images.splits}


def _files(
    images: MultiLabelDataset,
    extractor: Extractor,
    weights: str,
    folder: pathlib.Path,
    num_views: Mapping[str, int] | None,
) -> dict[str, list[_File]]:
    """The files of the features of each split, there or not; the arguments are those of `with_features`."""
    shape = extractor.backbone.input_shape[1:]
    augmentation = image_augmentation(images.name)
    files: dict[str, list[_File]] = {}
    for name, split in images.splits.items():
        images_of_split = identity(split.inputs)
        path = folder / f"{digest(_FORMAT, weights, shape, *images_of_split)}.npy"
        files[name] = [_File(path, name, split, None)]
        number = (num_views or {}).get(name, 1)
        for index in range(1, number):
            view = FixedView(augmentation, LARGEST_SEED + index)  # no seed of a run
            path = folder / f"{digest(_FORMAT, weights, shape, *view, *images_of_split)}.npy"
            files[name].append(_File(path, f"{name}, view {index + 1} of {number}", split, view))
    return files


def with_features(
    images: MultiLabelDataset,
    extractor: Extractor,
    weights: str,
    folder: pathlib.Path,
    num_views: Mapping[str, int] | None = None,
) -> MultiLabelDataset:
    """The dataset with features in place of its images: from files of the folder, which are written where they are not there.

    A file has one view of one split and is named by all that features depend on: the network's weights, the size of the images,
    the view, and the images; of image files their names below the data's folder, sizes and times of change. The first view is
    the sample itself. The others are the same for all runs, whatever their seed.

    Args:
        images: N samples in each split.
        extractor: makes the features.
        weights: hash of the extractor's weights.
        folder: of the files.
        num_views: V by split, where it is not 1.

    Raises:
        InputError: an image cannot be read, or the disk has too little room.
    """
    files = _files(images, extractor, weights, folder, num_views)
    _compute_missing([file for several in files.values() for file in several], extractor, folder)
    splits = {}
    for name, split in images.splits.items():
        arrays = tuple(np.load(file.path, mmap_mode="r") for file in files[name])
        # Also of a single view: what a stream of batches is given as an array, TensorFlow copies into memory, twice.
        splits[name] = Split(arrays[0], split.labels, split.distributions, FixedViews.of(arrays))
    return MultiLabelDataset(images.name, "vector", images.label_names, splits)


def _compute_missing(files: Sequence[_File], extractor: Extractor, folder: pathlib.Path) -> None:
    """Writes the files that are not there: first those of the samples themselves."""
    missing = sorted((file for file in files if not file.path.exists()), key=lambda file: file.view is not None)
    if not missing:
        _logger.info("features of the images are in %s", folder)
        return
    count = sum(len(file.split) for file in missing)
    size = 4 * count * extractor.num_features
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"--feature_cache must have room for {in_bytes(size)}. Received: {folder} with {in_bytes(free)}"
        )
    _logger.info(
        "computed once: %d features of %d images%s, %s in %s",
        extractor.num_features,
        count,
        " and views" if any(file.view for file in missing) else "",
        in_bytes(size),
        folder,
    )
    views = sum(len(file.split) for file in missing if file.view is not None)
    for file in missing:
        # Of all views together, once.
        announced, views = (len(file.split), views) if file.view is None else (views, 0)
        # One process at a time computes those of a file, the others wait for it.
        with filelock.FileLock(file.path.with_suffix(".lock")):
            if not file.path.exists():
                _compute(file, extractor, announced)


def _compute(file: _File, extractor: Extractor, announced: int) -> None:
    """Writes the file; where an earlier process was interrupted, the rows that it has put on disk are kept."""
    row = 4 * extractor.num_features
    header = npy_header((len(file.split), extractor.num_features))
    partial = file.path.with_suffix(".partial")
    with naming(partial), partial.open("r+b" if partial.exists() else "w+b") as stream:
        rows = max(0, stream.seek(0, os.SEEK_END) - len(header)) // row
        # The last batch may have been on its way to the disk when the power failed.
        done = max(0, rows // BATCH - 1) * BATCH
        stream.seek(0)
        stream.write(header)
        stream.truncate(len(header) + done * row)
        stream.seek(0, os.SEEK_END)
        left = max(0, announced - done)
        for block in extractor.blocks(file.split, file.title, first_row=done, view=file.view, announced=left):
            stream.write(block.astype("<f4").tobytes())
            stream.flush()
            os.fsync(stream.fileno())
    partial.replace(file.path)

"""What both phases do before there is a model: read the data, compare them with those of the run, prepare them for training."""

import logging
from collections.abc import Sequence

from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.datasets.checking import require_known_labels
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.splitting import with_share_of_train, with_true_distributions_as_labels, with_whole_train
from mulsupcon_tf.datasets.survey import summary_lines
from mulsupcon_tf.input_pipeline.cache import with_decoded_cache
from mulsupcon_tf.input_pipeline.image_files import (
    require_readable,
    unreadable_among,
    with_pixel_limit,
    without_unreadable,
)
from mulsupcon_tf.training.checkpoints import CheckpointStore, TrainingState
from mulsupcon_tf.training.data_changes import require_data_of
from mulsupcon_tf.training.devices import Devices
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.choices import SHARING_METHODS, TRUE_DISTRIBUTION_METHODS
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import counted


def read_dataset(config: TrainingConfig) -> MultiLabelDataset:
    """The dataset as it is stored: of this the run keeps the fingerprint."""
    dataset = load_dataset(config.dataset, data_dir=config.data_dir, **config.reading_options)
    return with_pixel_limit(dataset, config.max_image_pixels)


def with_train_of(config: TrainingConfig, dataset: MultiLabelDataset) -> MultiLabelDataset:
    """The dataset, whose validation split belongs to train too where `--validation_fraction=0` says so."""
    return with_whole_train(dataset) if config.validation_fraction == 0 else dataset


def as_fed(config: PretrainConfig, dataset: MultiLabelDataset) -> MultiLabelDataset:
    """The data as the method gets them: true distributions in place of the labels for those that take them."""
    return with_true_distributions_as_labels(dataset) if config.method in TRUE_DISTRIBUTION_METHODS else dataset


def require_labels_for_pretraining(config: PretrainConfig, dataset: MultiLabelDataset) -> None:
    """Raises `InputError` where labels are unknown and a pretraining reads more of them than which ones samples share.

    Args:
        config: resolved settings.
        dataset: as it is stored.
    """
    if config.method not in SHARING_METHODS:
        require_known_labels(dataset, f"--method={config.method}, other than {', '.join(SHARING_METHODS)},")
    if config.bce_weight:
        require_known_labels(dataset, "--bce_weight above 0")
    if config.monitor_every:
        require_known_labels(dataset, "--monitor_every above 0")


def open_state(config: TrainingConfig, run: RunDirectory, stored: MultiLabelDataset) -> TrainingState | None:
    """The state before the first step of this start; None where the run is finished, which is logged.

    Args:
        config: resolved settings.
        run: the run directory, in which nothing is written.
        stored: what `read_dataset` gave.

    Raises:
        InputError: the directory belongs to other settings, or the run saw other data.
    """
    # Before the settings: the default of one depends on the number of samples.
    changed = require_data_of(run, stored, allowed=config.allow_changed_data, data_dir=config.data_dir)
    run.check(config)
    if run.finished:
        logging.getLogger("mulsupcon_tf").info("%s is finished; nothing to do", run.path)
        return None
    return TrainingState(data=stored.fingerprint(), changed_data=changed)


def without_bad_images(
    config: TrainingConfig, run: RunDirectory, dataset: MultiLabelDataset, devices: Devices
) -> MultiLabelDataset:
    """The dataset without the images that `--skip_bad_images` finds; what it finds is written into the run directory.

    The chief looks for them, once a run. What the other workers leave out is what it found, whatever their own copies of the
    files are like: all train on the same samples.

    The setting may be added to a run that was begun without it: one that stopped at an image, be it at its end.

    Raises:
        InputError: no sample of a split is left, or the run was begun without the setting and has learnt from what would be
            left out.
    """
    if not (config.skip_bad_images and dataset.on_disk):
        return dataset
    run.claim(config)
    found = ""
    if devices.is_chief:
        settings = read_flags(run.flags_file)
        if settings.get("skip_bad_images") != "true":
            _require_learnt_readable(config, run, dataset)
            run.write_flags(settings | {"skip_bad_images": True})
        dataset = without_unreadable(dataset, run.bad_images, data_dir=config.data_dir, scan=True)
        found = run.bad_images.read_text(encoding="utf-8")
    listing, *_ = devices.gather_texts(found)
    if devices.is_chief:
        return dataset
    atomic_file.write_text(run.bad_images, listing)  # in a folder of its own
    return without_unreadable(dataset, run.bad_images, data_dir=config.data_dir, scan=False)


def _require_learnt_readable(config: TrainingConfig, run: RunDirectory, dataset: MultiLabelDataset) -> None:
    if not CheckpointStore(run.checkpoints).begun:
        return
    learnt = ["train"]
    # By validation a fine-tuning may have chosen its epoch; a pretraining only looks at it.
    if config.validation_fraction == 0 or getattr(config, "select_by", "last") != "last":
        learnt.append("validation")
    for name in learnt:
        broken = unreadable_among(dataset.splits[name].inputs)
        if broken is not None:
            raise InputError(
                "--skip_bad_images is added to a run where the images that it has learnt from can all be read; choose another "
                f"folder. Received: {broken} in {name}"
            )


def require_readable_later(
    config: TrainingConfig, run: RunDirectory, dataset: MultiLabelDataset, names: Sequence[str]
) -> None:
    """Decodes the images that a new run reads only after an epoch or at its end, so that none costs it what it has learnt.

    It takes less time than judging them does. With `--skip_bad_images` and `--freeze_backbone` all images are read first anyhow.

    Args:
        config: resolved settings.
        run: where it has a checkpoint, nothing is read.
        dataset: its images.
        names: of the splits that are read.

    Raises:
        InputError: a file is no whole image.
    """
    if config.skip_bad_images or config.freeze_backbone or not dataset.on_disk:
        return
    if CheckpointStore(run.checkpoints).begun:
        return
    count = counted(sum(len(dataset.splits[name]) for name in names), "image file")
    logging.getLogger("mulsupcon_tf").info("reading %s of %s before the training", count, " and ".join(names))
    for name in names:
        require_readable(dataset.splits[name].inputs)


def say_what_was_read(config: TrainingConfig, dataset: MultiLabelDataset, devices: Devices) -> None:
    """The chief logs in three lines what the run begins with, and in one more that it keeps no validation apart."""
    if not devices.is_chief:
        return
    lines = summary_lines(dataset)
    if config.validation_fraction == 0:
        count = sum(len(dataset.splits[name]) for name in ("train", "validation"))
        lines.append(f"--validation_fraction=0: validation is trained on too, {count} samples with train")
    for line in lines:
        logging.getLogger("mulsupcon_tf").info("%s", line)


def trained_on(config: TrainingConfig, dataset: MultiLabelDataset) -> MultiLabelDataset:
    """The dataset with the part of train that `--label_fraction` leaves, its images in memory where `--cache` asks for it."""
    dataset = with_share_of_train(dataset, config.label_fraction, config.seed)
    return with_decoded_cache(dataset, config.image_size) if config.cache else dataset

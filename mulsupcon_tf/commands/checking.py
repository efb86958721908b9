"""What `check` does: says what was read, and what a training on it takes in time and memory, before there is one."""

import dataclasses
import logging
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mulsupcon_tf.commands.feature_extraction import BATCH, Extractor
from mulsupcon_tf.commands.frozen_backbone import missing_features
from mulsupcon_tf.commands.phase import build_pretrainer, prepare_process, warnings_of
from mulsupcon_tf.commands.phase_data import (
    as_fed,
    read_dataset,
    require_labels_for_pretraining,
    trained_on,
    with_train_of,
)
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.config.program_flags import CheckConfig
from mulsupcon_tf.datasets import survey
from mulsupcon_tf.datasets.base import SPLIT_NAMES, ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import listed
from mulsupcon_tf.datasets.splitting import (
    require_true_distributions,
    with_share_of_train,
)
from mulsupcon_tf.input_pipeline.cache import CACHED_SPLITS, cached_bytes
from mulsupcon_tf.input_pipeline.feed import training_feed
from mulsupcon_tf.input_pipeline.image_files import readable_rows, reason_unreadable
from mulsupcon_tf.input_pipeline.memory import peak_memory
from mulsupcon_tf.input_pipeline.sampling_order import steps_per_epoch
from mulsupcon_tf.training.devices import Devices
from mulsupcon_tf.training.loop import compiled_steps
from mulsupcon_tf.training.resolving import DataSize, resolved_pretraining
from mulsupcon_tf.utils.choices import TRUE_DISTRIBUTION_METHODS
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import counted, in_bytes, in_time


def check(config: CheckConfig) -> Iterator[str]:
    """Yields what is found, line by line: the data, their labels, what to look at, and what a pretraining would take.

    Nothing is written.

    Args:
        config: the flags of a pretraining, of which `workdir` is not read.

    Raises:
        InputError: the data or a setting is wrong; what was found before has been yielded.
    """
    dataset = read_dataset(config)
    if config.method in TRUE_DISTRIBUTION_METHODS:
        require_true_distributions(dataset)
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(PretrainConfig)}
    resolved = resolved_pretraining(PretrainConfig(**settings), DataSize.of(dataset), begun={})
    yield from survey.overview(dataset)
    yield ""
    yield from survey.label_table(dataset)
    yield ""
    refusal = _refusal(resolved, dataset)
    readable, unreadable = _readable(dataset)
    found = [
        *([f"a pretraining with these flags is refused: {refusal}"] if refusal else []),
        *unreadable,
        *_unlisted(config, dataset),
        *survey.findings(dataset, pretrained_weights=resolved.backbone_weights is not None),
    ]
    yield "to look at:" if found else "nothing stands out"
    yield from (f"- {sentence}" for sentence in found)
    if config.timed_steps:
        yield ""
        empty = [name for name in SPLIT_NAMES if not len(readable.splits[name])]
        if refusal:
            yield "nothing is timed, since a pretraining with these flags is refused; finetune leaves out what is unknown"
        elif empty:
            yield f"nothing can be timed: no image of {' and '.join(empty)} can be read"
        else:
            yield from _estimates(resolved, readable.with_known_positives(), config.timed_steps)


def _refusal(config: PretrainConfig, dataset: MultiLabelDataset) -> str | None:
    """What a pretraining with these resolved settings says of labels that are unknown; None where it takes them.

    No refusal here: that labels are unknown is what `check` is to find, and other methods and `finetune` take them.
    """
    try:
        require_labels_for_pretraining(config, dataset)
    except InputError as error:
        return str(error)
    return None


def _readable(dataset: MultiLabelDataset) -> tuple[MultiLabelDataset, list[str]]:
    """The dataset without image files that cannot be decoded, and a sentence for each split that has some."""
    if not dataset.on_disk:
        return dataset, []
    count = sum(map(len, dataset.splits.values()))
    logging.getLogger("mulsupcon_tf").info("reading %s", counted(count, "image file"))
    splits, sentences = {}, []
    for name in SPLIT_NAMES:
        split = dataset.splits[name]
        files = split.inputs
        assert isinstance(files, ImageFiles)
        rows = readable_rows(files)
        bad = np.setdiff1d(np.arange(len(files)), rows)
        if len(bad):
            reason = reason_unreadable(files.paths[bad[0]], files.max_pixels)
            sentences.append(
                f"files that are no whole image, {len(bad)} of {len(files)} in {name}, which stop a training without "
                f"--skip_bad_images: {listed(files.names, bad)} ({reason})"
            )
        splits[name] = split[rows]
    return dataclasses.replace(dataset, splits=splits), sentences


def _unlisted(config: CheckConfig, dataset: MultiLabelDataset) -> list[str]:
    if config.dataset != "csv" or config.data_dir is None:  # other layouts hold more than is read of them
        return []
    files = survey.unlisted_images(dataset, config.data_dir)
    if not files:
        return []
    return [f"image files that no row of the table names, {len(files)}: {listed(files, np.arange(len(files)))}"]


def _estimates(config: PretrainConfig, dataset: MultiLabelDataset, timed_steps: int) -> Iterator[str]:
    """What a pretraining with these resolved settings takes, by some steps of it on this machine."""
    train = with_share_of_train(with_train_of(config, dataset), config.label_fraction, config.seed).splits["train"]
    steps = config.total_steps(steps_per_epoch(train, config.batch_size))
    yield (
        f"pretraining with these flags: {config.backbone}{f' at {config.image_size} pixels' if config.image_size else ''}, "
        f"{counted(config.epochs, 'epoch')}, {counted(steps, 'step')} of {config.batch_size} samples"
    )
    yield from warnings_of(config, steps_per_epoch(train, config.batch_size), dataset.num_labels)
    if dataset.on_disk and config.cache:
        assert config.image_size is not None
        needed = sum(cached_bytes(dataset.splits[name].inputs, config.image_size) for name in CACHED_SPLITS)
        yield f"memory for --cache: {in_bytes(needed)}"
    if config.freeze_backbone:
        sentence, dataset = _features(config, dataset, config.batch_size * (timed_steps + 1))
        yield sentence
    first, each, stored = _measured(config, dataset, timed_steps)
    yield (
        f"time for these steps on one device of this machine: about {in_time(first + each * (steps - 1))}, by "
        f"{counted(timed_steps, 'step')} of {in_time(each)} each after a first one of {in_time(first)}; "
        "the end of a run and its checks on validation come on top"
    )
    yield f"memory of this process while it took these steps, without a GPU's: {in_bytes(peak_memory())}"
    yield f"disk: {in_bytes(stored)} a checkpoint, of which {config.checkpoints_kept} are kept"


def _features(config: PretrainConfig, images: MultiLabelDataset, number: int) -> tuple[str, MultiLabelDataset]:
    """What the features of a frozen backbone take, and a dataset of noise in place of them, on which steps take as long.

    Args:
        config: resolved settings.
        images: what features are made of.
        number: of samples of a split that are enough.
    """
    assert config.backbone_weights is not None
    extractor = Extractor.build(config.backbone, config.backbone_weights, images, config.image_size)
    missing = missing_features(config, images, extractor)
    rng, splits = np.random.default_rng(0), {}
    for name, split in images.splits.items():
        few = split[:number]
        noise = rng.normal(size=(len(few), extractor.num_features)).astype(np.float32)
        splits[name] = Split(noise, few.labels, few.distributions)
    features = MultiLabelDataset(images.name, "vector", images.label_names, splits)
    if not missing:
        return "features of the images: there already, for all runs", features
    count, views = sum(map(len, missing)), " and views" if config.feature_views > 1 else ""
    pace = _images_per_second(extractor, missing[0])
    return (
        f"features of {counted(count, 'image')}{views}, once for all runs: about {in_time(count / pace)}, by {pace:.0f} images a second; "
        f"{in_bytes(4 * count * extractor.num_features)} on disk"
    ), features


def _images_per_second(extractor: Extractor, split: Split) -> float:
    """The pace of the second of two batches: the first makes the graph."""
    first, second = split[:BATCH], split[BATCH : 2 * BATCH]
    seconds = []
    for few in (first, second if len(second) else first):
        start = time.perf_counter()
        for _ in extractor.blocks(few, "trial"):
            pass
        seconds.append((time.perf_counter() - start) / len(few))
    return 1 / seconds[1]


def _measured(config: PretrainConfig, dataset: MultiLabelDataset, timed_steps: int) -> tuple[float, float, int]:
    """Seconds of a first step with its compilation, mean seconds of later ones, bytes of all that a checkpoint holds."""
    number = config.batch_size * (timed_steps + 1)  # no more are read, however many there are
    few = {name: split[:number] for name, split in dataset.splits.items()}
    whole = with_train_of(config, dataclasses.replace(dataset, splits=few))
    sample = trained_on(dataclasses.replace(config, label_fraction=None), whole)
    feed = training_feed(as_fed(config, sample), config, num_views=2)
    prepare_process(config)
    model = build_pretrainer(config, sample, feed.steps_per_epoch)
    model.optimizer.build(model.trainable_variables)
    run_steps = compiled_steps(model, Devices(), xla=config.xla)
    batches = iter(feed.batches_from(0))
    seconds = []
    for count in (1, timed_steps):
        start = time.perf_counter()
        run_steps(batches, tf.constant(count))
        seconds.append((time.perf_counter() - start) / count)
    variables = [*model.variables, *model.optimizer.variables]
    stored = sum(int(np.prod(variable.shape)) * tf.as_dtype(variable.dtype).size for variable in variables)
    return seconds[0], seconds[1], stored

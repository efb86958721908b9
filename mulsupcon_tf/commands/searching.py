"""What `search` does: keeps an index of a gallery up to date, and finds what is nearest to each query."""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mulsupcon_tf.commands.finished_run import FinishedRun, model_folder, open_run
from mulsupcon_tf.config.common_flags import number_of
from mulsupcon_tf.config.fields import refuse_without, require_one
from mulsupcon_tf.config.program_flags import AppConfig, GalleryConfig, SearchConfig
from mulsupcon_tf.datasets.base import ImageFiles, Split
from mulsupcon_tf.input_pipeline.image_files import readable_rows, reason_unreadable
from mulsupcon_tf.serving.gallery_search import (
    INDEX_FILE,
    OF_A_PRETRAINING,
    Encoder,
    Search,
    chosen_vectors,
    encoder_of_served_model,
    stacked,
)
from mulsupcon_tf.serving.model_inputs import Refused, files_below, named_files, samples_of
from mulsupcon_tf.serving.search_index import NO_ROW, SearchIndex
from mulsupcon_tf.serving.served_model import ServedModel
from mulsupcon_tf.training.progress_bar import progress_line
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.cache_folder import cache_folder
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import counted

_BLOCK = 2048  # files that are encoded at a time
_GROWTH = 1.1  # of an index that grows, after which it is written: it may be gigabytes
_MANY = 1000  # items that take minutes to encode
_logger = logging.getLogger("mulsupcon_tf")


def search(config: SearchConfig, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields a record for each query; see `Search.records`.

    Args:
        config: settings.
        names: files, folders, patterns and tables, as for `predict`.

    Raises:
        InputError: a setting, the model, the index or the gallery is wrong, or no query was named; or, when all others have
            their records, queries cannot be read.
    """
    if not names:
        raise InputError(
            "search takes the files to search for: search --workdir=RUN --gallery=DIR FILE... Received: no file"
        )
    found, config = named_files(names), _with_index_of_model(config)
    if not _searches(config):
        raise InputError("--gallery is required, what is searched, or an --index that is there. Received: none")
    opened = open_search(config, open_encoder(config))
    refused = Refused()
    yield from opened.records(files_below(found, opened.encoder.num_features), config.neighbours, refused)
    refused.raise_if_any()


def open_search(config: GalleryConfig, encoder: Encoder) -> Search:
    """The search with its index, which is written where there is none and brought up to date where the gallery has changed.

    Args:
        config: settings.
        encoder: the model.

    Raises:
        InputError: see `search`.
    """
    gallery = [] if config.gallery is None else files_below(named_files([config.gallery]), encoder.num_features)
    path = pathlib.Path(config.index) if config.index else _default_path(config, encoder)
    index = SearchIndex.read(path) if path.exists() else SearchIndex.empty(encoder.by, encoder.model)
    if encoder.model_before and index.model == encoder.model_before:
        _logger.warning(
            "warning: %s does not say which frozen backbone made it; if that was ever exchanged, delete the index", path
        )
        index = dataclasses.replace(index, model=encoder.model)
    if (index.by, index.model) != (encoder.by, encoder.model):
        what = f"by {index.by}" if index.by != encoder.by else "of another model"
        name, advice = "--index", "name another file"
        if config.saved_model and config.gallery is None and path == pathlib.Path(config.saved_model, INDEX_FILE):
            # Which the user need not have named.
            name, advice = "the gallery beside a model", "name another by --gallery=DIR"
            if index.by != encoder.by:
                advice += ", or leave --by out"
        raise InputError(f"{name} must be of this model and of --by={encoder.by}; {advice}. Received: {path}, {what}")
    if config.gallery is not None:
        _require_index_of(config, index, path, gallery)
        index = _up_to_date(index, path, encoder, gallery)
    if not len(index.files):
        raise InputError(f"a gallery must hold a file that can be read. Received: none in {config.gallery or path}")
    return Search(encoder, index, path, {os.path.abspath(file): file for file in gallery})  # noqa: PTH100


def open_encoder(config: SearchConfig) -> Encoder:
    """The model of a search: an exported classifier, that of a fine-tuning, or the encoder of a pretraining.

    Raises:
        InputError: there is no such model, or it has no such vectors.
    """
    require_one(config, "saved_model", "workdir")
    if config.workdir is not None and RunDirectory(config.workdir).read_summary()["phase"] == "pretrain":
        by = chosen_vectors(config.by, OF_A_PRETRAINING, "a pretraining")
        opened = open_run(config.workdir, config.data_dir, allow_changed_data=config.allow_changed_data)
        return _of_pretraining(RunDirectory(config.workdir), opened, by)
    given = next((name for name in ("data_dir", "allow_changed_data") if getattr(config, name)), None)
    if given is not None:
        raise InputError(
            f"--{given} belongs to a --workdir of a pretraining: a classifier needs no data. "
            f"Received: --{given}={getattr(config, given)} --workdir={config.workdir}"
        )
    return encoder_of_served_model(ServedModel.load(model_folder(config)), config.by, config.batch_size)


def open_gallery(config: AppConfig) -> tuple[ServedModel, Callable | None, list[str]]:
    """What the page of `app` shows: a classifier of photos, what searches its gallery, and the gallery's files.

    Returns:
        The model; from a file to its nearest, see `Search.records`, or None without a gallery; N files.

    Raises:
        InputError: a setting, the model, the index or the gallery is wrong, or the model is one of vectors.
    """
    config = _with_index_of_model(config)
    model = ServedModel.load(model_folder(config))
    if model.num_features is not None:
        raise InputError(f"app takes a model of photos. Received: {model.directory}, a model of vectors")
    if not _searches(config):
        if config.index:
            raise InputError(f"--index alone must be a file that is there. Received: {config.index}")
        refuse_without(config, "--gallery", "by")
        return model, None, []
    opened = open_search(config, encoder_of_served_model(model, config.by, config.batch_size))

    def find(file: str) -> list[dict[str, Any]]:
        return next(opened.records([file], config.neighbours, Refused()))["nearest"]

    return model, find, [opened.shown.get(file, file) for file in opened.index.files.tolist()]


def _with_index_of_model(config: Any) -> Any:
    """The config with the index that `export --gallery` has put beside the model, where neither gallery nor index is named."""
    path = pathlib.Path(config.saved_model or "", INDEX_FILE)
    if not config.saved_model or config.gallery is not None or config.index or not path.exists():
        return config
    return dataclasses.replace(config, index=str(path), by=config.by or SearchIndex.what_is_compared(path))


def write_index_of_model(folder: pathlib.Path, gallery: str, by: str | None) -> SearchIndex:
    """Writes the index of a gallery into the folder of a SavedModel, where `search --saved_model` finds it.

    Args:
        folder: of the model.
        gallery: what is searched, as `--gallery` names it.
        by: what is compared; None for the default.

    Raises:
        InputError: a classifier has no such vectors, or there is no file that can be read.
    """
    config = SearchConfig(saved_model=str(folder), gallery=gallery, index=str(folder / INDEX_FILE), by=by)
    return open_search(config, open_encoder(config)).index


def _searches(config: GalleryConfig) -> bool:
    return config.gallery is not None or bool(config.index and pathlib.Path(config.index).exists())


def _of_pretraining(run: RunDirectory, opened: FinishedRun, by: str) -> Encoder:
    dataset = opened.dataset
    num_features = None if dataset.kind == "image" else dataset.input_shape[0]
    max_pixels = number_of(read_flags(run.flags_file), "max_image_pixels")

    def encode(files: Sequence[str], refused: Refused) -> tuple[list[dict], np.ndarray]:
        inputs: np.ndarray | ImageFiles
        if num_features is not None:
            samples = list(samples_of(files, num_features, refused))
            keys, inputs = [key for key, _ in samples], stacked([vector for _, vector in samples])
        else:
            images = ImageFiles(np.array(files, object), max_pixels=max_pixels)
            rows = readable_rows(images)
            for position in np.setdiff1d(np.arange(len(images)), rows):
                refused.add_image(files[position], str(reason_unreadable(files[position], images.max_pixels)))
            keys, inputs = [{"file": files[row]} for row in rows], images[rows]
        if not keys:
            return [], np.empty((0, 0), np.float32)
        return keys, opened.represent(Split(inputs, np.zeros((len(keys), dataset.num_labels), np.uint8)))[by]

    trained = atomic_file.sha256(run.encoder_weights)
    frozen = run.read_summary().get("frozen_weights")
    if frozen is None:
        return Encoder(by, trained, num_features, encode)
    return Encoder(by, f"{frozen} {trained}", num_features, encode, model_before=trained)


def _default_path(config: GalleryConfig, encoder: Encoder) -> pathlib.Path:
    gallery = os.path.abspath(config.gallery or "")  # noqa: PTH100
    name = hashlib.sha256(json.dumps([encoder.model, encoder.by, gallery]).encode()).hexdigest()[:32]
    return cache_folder("search") / f"{name}.npz"


def _require_index_of(config: GalleryConfig, index: SearchIndex, path: pathlib.Path, gallery: Sequence[str]) -> None:
    """Says how many items the index is about to lose, and refuses where they are most of it, or many of a missing disk.

    Most of it belongs to another gallery, or to a folder that is not mounted; so does a part whose folders are gone or empty.
    It would have to be encoded anew, for hours. The index that nobody has named is of this gallery alone, and so may lose most
    of a few items.
    """
    listed = {os.path.abspath(file) for file in gallery}  # noqa: PTH100
    lost = [str(file) for file in index.files if str(file) not in listed]
    if not lost:
        return
    most = 2 * len(lost) > len(index.files) and (config.index or len(lost) >= _MANY)
    missing = set() if most else _folders_without_files(lost)
    unmounted = [file for file in lost if os.path.dirname(file) in missing]  # noqa: PTH120
    if (most or len(unmounted) >= _MANY) and not config.drop_missing:
        where = "" if most else f", {len(unmounted)} in folders that are gone or empty, such as {unmounted[0]}"
        raise InputError(
            "--index must be of this gallery; name another file, or delete this one or give --drop_missing if what it is of is "
            f"gone for good. Received: {path}, of whose {counted(len(index.files), 'item')} {len(lost)} are not in "
            f"{config.gallery}{where}"
        )
    _logger.warning(
        "%s: left out are %d of %s, which are not in %s",
        path,
        len(lost),
        counted(len(index.files), "item"),
        config.gallery,
    )


def _folders_without_files(files: Sequence[str]) -> set[str]:
    """The folders of these files that hold nothing, as that of a disk does which is not mounted, or are not there."""
    missing = set()
    for folder in set(map(os.path.dirname, files)):
        try:
            if not os.listdir(folder):  # noqa: PTH208
                missing.add(folder)
        except OSError:
            missing.add(folder)
    return missing


def _up_to_date(index: SearchIndex, path: pathlib.Path, encoder: Encoder, gallery: Sequence[str]) -> SearchIndex:
    """The index of exactly these files, written where it is not what is stored; those that have not changed are not read."""
    stamps = {os.path.abspath(file): _stamp(file) for file in gallery}  # noqa: PTH100
    known = {str(file): tuple(stamp) for file, stamp in zip(index.files, index.stamps.tolist(), strict=True)}
    kept = np.array([stamps.get(str(file)) == known[str(file)] for file in index.files], bool)
    missing = [file for file, stamp in stamps.items() if known.get(file) != stamp]
    if kept.all() and not missing:
        _logger.info("index of %s: %s", counted(len(index.files), "item"), path)
        return index
    index = index.kept(kept)
    atomic_file.require_writable(path)
    if missing:
        _logger.info("encoding %s for the index", counted(len(missing), "file"))
    refused, written = Refused(), len(index.files)
    with progress_line(len(missing), "file", shown=sys.stderr.isatty()) as bar:
        for start in range(0, len(missing), _BLOCK):
            block = missing[start : start + _BLOCK]
            keys, vectors = encoder.encode(block, refused)
            if keys:
                files = [key["file"] for key in keys]
                rows = [key.get("row", NO_ROW) for key in keys]
                index = index.with_items(vectors, files, rows, np.array([stamps[file] for file in files], np.int64))
            if len(index.files) > _GROWTH * written and start + _BLOCK < len(missing):
                index.write(path)  # so that an interrupted one goes on from here
                written = len(index.files)
            bar.update(len(block))
    # Not for files alone that could not be read, which are tried at each call.
    if len(index.files) and (not kept.all() or len(index.files) > len(kept)):
        order = np.lexsort((index.rows, index.files))
        index = index.kept(order)
        index.write(path)
    return index


def _stamp(file: str) -> tuple[int, int]:
    """Size and time of change; of a file that is not there a pair that no file has."""
    try:
        found = os.stat(file)  # noqa: PTH116
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns

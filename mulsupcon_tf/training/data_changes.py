"""Whether the data are those that a run saw, of which it stored the fingerprint; what is different if they are not."""

import logging

from mulsupcon_tf.config.common_flags import number_of
from mulsupcon_tf.datasets.base import FINGERPRINT_PARTS, MultiLabelDataset
from mulsupcon_tf.datasets.splitting import with_share_of_train
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils.choices import DISTRIBUTION_METHODS
from mulsupcon_tf.utils.errors import InputError

_logger = logging.getLogger("mulsupcon_tf")


def require_data_of(run: RunDirectory, dataset: MultiLabelDataset, *, allowed: bool, data_dir: str | None) -> str:
    """Holds the data against those that a run saw, or has seen so far.

    Args:
        run: its directory; a run that has not begun, and one on a dataset of another name, may have any data.
        dataset: the data as they were loaded: unreadable images and a `--label_fraction` are not left out yet.
        allowed: value of `--allow_changed_data`: other data are a warning.
        data_dir: folder of the data.

    Returns:
        What has changed, in words; "" where nothing has. A finished run of a version that stored nothing passes, with a
        warning, where its labels have the same names.

    Raises:
        InputError: the data have changed, and that is not allowed.
    """
    another = run.flags_file.exists() and read_flags(run.flags_file).get("dataset") != dataset.name
    changes = "" if another else _changes(run, dataset, data_dir)
    if changes and not allowed:
        raise InputError(
            f"the data must be those that {run.path} saw, or --allow_changed_data be given. Received: {changes}"
        )
    if changes:
        _logger.warning("warning: the data are not those that %s saw: %s", run.path, changes)
    return changes


def _changes(run: RunDirectory, dataset: MultiLabelDataset, data_dir: str | None) -> str:
    summary = run.read_summary() if run.finished else {}
    then = summary.get("data_fingerprint") or _last_fingerprint(run)
    names = other_names(summary.get("label_names"), list(dataset.label_names))
    if then and ":" in then:
        return differences(then, dataset.fingerprint(), names=names, inputs=word_for_inputs(dataset))
    if then and then != _as_trained_on(run, dataset, data_dir).earlier_fingerprint():
        return names or "other data, or other splits of them: the run is of a version that drew splits by number"
    if run.finished and not then and not names:
        _logger.warning(
            "warning: %s stored no fingerprint, so that nobody knows whether its data are the same", run.path
        )
    return names


def _last_fingerprint(run: RunDirectory) -> str | None:
    """That of the newest checkpoint; None where there is none."""
    from mulsupcon_tf.training.checkpoints import CheckpointStore  # imports TensorFlow, which a report does without

    return CheckpointStore(run.checkpoints).latest_progress().get("data")


def word_for_inputs(dataset: MultiLabelDataset) -> str:
    """What a message calls the inputs: what their part of the fingerprint is made of."""
    return "file names" if dataset.on_disk else f"{dataset.kind}s"


def differences(then: str, now: str, *, names: str, inputs: str) -> str:
    """What is different between two fingerprints, in words; "" if nothing.

    Args:
        then: the one that is as it should be.
        now: the other one.
        names: what is different in the names of labels; "" where they are not known.
        inputs: see `word_for_inputs`.
    """
    parts = zip(FINGERPRINT_PARTS, then.split(":"), now.split(":"), strict=False)
    differing = {name: (there, here) for name, there, here in parts if there != here}
    if "version" in differing:
        return f"a fingerprint of version {differing['version'][0]}, which this version of the package does not know"
    texts = {}
    if "samples" in differing:  # then all the rest is different too
        there, here = differing["samples"]
        texts["samples"] = f"{here} samples in train/validation/test, not {there}"
    else:
        texts |= {
            "labels": "other labels",
            "inputs": f"other {inputs}, or another order of them",
            "sizes": "files of other sizes",
            "distributions": "other true distributions",
        }
    texts["label names"] = names or "other names of labels"
    return ", ".join(text for name, text in texts.items() if name in differing)


def other_names(then: list[str] | None, now: list[str]) -> str:
    """Which label is another; "" where none is, or where it is not known what they were."""
    if then is None or then == now:
        return ""
    if sorted(then) == sorted(now):
        return "labels in another order"
    for column, (before, name) in enumerate(zip(then, now, strict=False), start=1):
        if before != name:
            return f"{name!r} for label {column}, not {before!r}"
    return f"{len(now)} labels, not {len(then)}"


def require_labels_of(run: RunDirectory, dataset: MultiLabelDataset) -> None:
    """Refuses labels whose columns are not those of a finished run's outputs, whatever changes in the data are allowed.

    Each would be judged by what the run says of another one. A label in its place may have another name.

    Raises:
        InputError: they are more or fewer, or in another order; of a pretraining that has no outputs by label they may be any.
    """
    summary, now = run.read_summary(), list(dataset.label_names)
    then = summary.get("label_names")
    if then is None or (summary["phase"] == "pretrain" and summary["method"] not in DISTRIBUTION_METHODS):
        return
    places = {name: place for place, name in enumerate(now)}
    if len(then) != len(now) or any(places.get(name, place) != place for place, name in enumerate(then)):
        raise InputError(
            f"labels must be those that {run.path} has learnt, in their order; only names may change. "
            f"Received: {other_names(then, now)}"
        )


def _as_trained_on(run: RunDirectory, dataset: MultiLabelDataset, data_dir: str | None) -> MultiLabelDataset:
    """What version 1 took the fingerprint of: the images that could be read, for a pretraining its share of train."""
    from mulsupcon_tf.input_pipeline.image_files import without_unreadable  # imports TensorFlow

    flags = read_flags(run.flags_file)
    readable = without_unreadable(dataset, run.bad_images, data_dir=data_dir, scan=False)
    if "method" not in flags or "label_fraction" not in flags:  # a fine-tuning has no method of its own
        return readable
    return with_share_of_train(readable, number_of(flags, "label_fraction"), number_of(flags, "seed"))

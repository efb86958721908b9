"""TensorBoard: scalars, augmented views, histograms of label distributions, and the projector of embeddings."""

import csv
import math
import pathlib
import time

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.input_pipeline.batches import evaluation_batches
from mulsupcon_tf.input_pipeline.image_files import naming_unreadable
from mulsupcon_tf.utils.file_errors import as_os_error
from mulsupcon_tf.utils.private_apis import write_event

MAX_PROJECTED = 2000
THUMBNAIL = 40  # pixels a side; the sheet of 2,000 is 1,800 pixels wide, and browsers take 8,192
_BATCH = 256

# TensorBoard opens one group of charts for each name before a slash; without groups each chart is alone in its own.
GROUPS = {
    "embedding": ("knn_mAP", "alignment", "uniformity", "embedding_std"),
    "recovery": ("leak", "distribution_entropy"),
    "machinery": (
        "learning_rate",
        "key_momentum",
        "queue_fill",
        "samples_per_second",
        "data_wait_share",
        "bad_steps",
    ),
}
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
_GAP = 255.0  # white


class TensorBoard:
    """Writes one event file; `write_projector` puts what the projector shows beside it.

    Args:
        directory: TensorBoard's log directory of the run.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self._continued = any(directory.glob("events.out.tfevents.*"))
        with as_os_error(directory):
            self._writer = tf.summary.create_file_writer(str(directory))

    def begin(self, first_step: int) -> None:
        """Makes TensorBoard forget what earlier starts of the run wrote for `first_step` and later: it is written again."""
        if self._continued:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            event = event_pb2.Event(wall_time=time.time(), step=first_step, session_log=start).SerializeToString()
            with as_os_error(self.directory):
                for _ in range(2):  # TensorBoard takes the first that it reads for the start of the whole run
                    write_event(self._writer, event)
                self._writer.flush()

    def flush(self) -> None:
        """Hands everything to the operating system, so that it outlives this process."""
        with as_os_error(self.directory):
            self._writer.flush()

    def log_scalars(self, record: dict, step: int) -> None:
        """One scalar for each number in the record, in its group of `GROUPS`, else among the losses: "loss/val_loss"."""
        numbers = summary_pb2.Summary()
        for name, value in record.items():
            if isinstance(value, float) and math.isfinite(value):
                numbers.MergeFrom(scalar_pb(f"{_GROUP_OF.get(name, 'loss')}/{name}", value))
        with as_os_error(self.directory), self._writer.as_default(step=step):
            # all in one: an epoch of a small set takes a tenth of a second, a call of TensorFlow for each would be 4% of it
            tf.summary.experimental.write_raw_pb(numbers.SerializeToString())

    def log_views(self, view_1: np.ndarray, view_2: np.ndarray, step: int) -> None:
        """Pairs of augmented views side by side, `[B, H, W, channels]` with values 0 to 255, a white line between them."""
        gap = np.full((*view_1.shape[:2], max(1, view_1.shape[2] // 24), view_1.shape[3]), _GAP, np.float32)
        pairs = tf.concat([view_1, gap, view_2], axis=2) / 255.0
        with as_os_error(self.directory), self._writer.as_default(step=step):
            tf.summary.image("views", pairs, max_outputs=8)

    def log_histograms(self, values: dict[str, np.ndarray], step: int) -> None:
        """A histogram for each array."""
        with as_os_error(self.directory), self._writer.as_default(step=step):
            for name, array in values.items():
                tf.summary.histogram(name, array)

    def close(self) -> None:
        """Flushes everything to disk."""
        with as_os_error(self.directory):
            self._writer.close()


def write_projector(directory: pathlib.Path, embeddings: np.ndarray, dataset: MultiLabelDataset) -> None:
    """Writes what the projector shows of the test split; TensorBoard finds it beside an event file.

    Args:
        directory: TensorBoard's log directory of the run.
        embeddings: `[N, D]` of the test split; the first 2000 are shown.
        dataset: labels, and true distributions where known: then the table has a column "dominant", the label of the
            largest share, else a column "rarest", the sample's label that fewest test samples have.
    """
    test = dataset.splits["test"]
    shown = Split(
        test.inputs[:MAX_PROJECTED],
        test.labels[:MAX_PROJECTED],
        None if test.distributions is None else test.distributions[:MAX_PROJECTED],
    )
    directory.mkdir(parents=True, exist_ok=True)
    settings = ['tensor_name: "embedding"', 'tensor_path: "embeddings.tsv"', 'metadata_path: "labels.tsv"']
    with as_os_error(directory):
        np.savetxt(directory / "embeddings.tsv", embeddings[:MAX_PROJECTED], delimiter="\t", fmt="%.5g")
        _write_labels(directory / "labels.tsv", shown, test.labels.mean(axis=0), dataset.label_names)
        if dataset.kind == "image":
            (directory / "thumbnails.png").write_bytes(_sheet_of_thumbnails(shown))
            sides = f"single_image_dim: {THUMBNAIL} single_image_dim: {THUMBNAIL}"
            settings.append(f'sprite {{ image_path: "thumbnails.png" {sides} }}')
        lines = "".join(f"  {setting}\n" for setting in settings)
        (directory / "projector_config.pbtxt").write_text(f"embeddings {{\n{lines}}}\n", encoding="utf-8")


def _write_labels(path: pathlib.Path, split: Split, frequencies: np.ndarray, label_names: tuple[str, ...]) -> None:
    if split.distributions is not None:
        colour, columns = "dominant", split.distributions.argmax(axis=1)
    else:
        colour, columns = "rarest", np.where(split.labels > 0, frequencies, 2.0).argmin(axis=1)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["labels", colour, "count", *label_names])
        for row, column in zip(split.labels, columns, strict=True):
            names = ";".join(name for name, here in zip(label_names, row, strict=True) if here)
            telling = label_names[int(column)] if row.any() else "(none)"
            present = ("yes" if here else "no" for here in row)
            writer.writerow([names or "(none)", telling, int(row.sum()), *present])


def _sheet_of_thumbnails(split: Split) -> bytes:
    """A PNG of all images in rows, as many in a row as there are rows."""
    per_row = math.ceil(math.sqrt(len(split)))
    with naming_unreadable(lambda: split.inputs):
        batches = [images for images, _ in evaluation_batches(split, batch_size=_BATCH, image_size=THUMBNAIL)]
    images = tf.cast(tf.clip_by_value(tf.round(tf.concat(batches, axis=0)), 0, 255), tf.uint8)
    images = tf.broadcast_to(images, (*images.shape[:3], 3)).numpy()
    sheet = np.full((per_row * per_row, THUMBNAIL, THUMBNAIL, 3), 255, np.uint8)
    sheet[: len(images)] = images
    side = per_row * THUMBNAIL
    grid = sheet.reshape(per_row, per_row, THUMBNAIL, THUMBNAIL, 3).transpose(0, 2, 1, 3, 4).reshape(side, side, 3)
    return tf.io.encode_png(grid).numpy()

"""What a person watches while training: a progress bar, and TensorBoard's pages."""

import math
import pathlib
import sys
import time

import numpy as np
import tensorflow as tf
import tqdm
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from mulsupcon_tf.utils.file_errors import as_os_error

SHOWN_IN_BAR = ("loss", "contrastive_loss", "recovery_loss", "bce_loss", "leak", "val_loss", "knn_mAP")
# TensorBoard opens one group of charts for each name before a slash; without groups each chart is alone in its own.
GROUPS = {
    "embedding": ("knn_mAP", "alignment", "uniformity", "embedding_std"),
    "recovery": ("leak", "label_weight_entropy"),
    "machinery": (
        "learning_rate", "key_momentum", "queue_fill", "samples_per_second", "data_wait_share", "bad_steps",
    ),
}  # fmt: skip
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
_GAP = 255.0  # white


class ProgressBar:
    """Bar over training steps with the last epoch's losses and samples/s; on a pipe, a line now and then.

    Args:
        total_steps: of the whole run.
        first_step: steps that an earlier start has done.
        epochs: of the whole run.
        shown: False for nothing at all.
    """

    def __init__(self, total_steps: int, first_step: int, epochs: int, *, shown: bool = True):
        self.epochs = epochs
        self._shown: dict[str, str] = {}
        interactive = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total_steps, initial=first_step, unit="step", file=sys.stderr, disable=not shown, dynamic_ncols=interactive,
            mininterval=0.5 if interactive else 20.0, ncols=None if interactive else 0,
        )  # fmt: skip

    def advance(self, steps: int) -> None:
        """Counts finished steps."""
        self._bar.update(steps)

    def show(self, epoch: int, record: dict) -> None:
        """Shows an epoch's losses beside the bar; what is not measured in every epoch stays until it is measured again."""
        self._shown |= {name: f"{record[name]:.3f}" for name in SHOWN_IN_BAR if name in record}
        if record.get("samples_per_second"):
            self._shown["samples/s"] = f"{record['samples_per_second']:.0f}"
        self._bar.set_description(f"epoch {epoch}/{self.epochs}", refresh=False)
        self._bar.set_postfix(self._shown, refresh=False)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()


class TensorBoard:
    """Writes one event file; `projector.write_projector` puts what the projector shows beside it.

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
                    tf.raw_ops.ImportEvent(writer=self._writer._resource, event=event)
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

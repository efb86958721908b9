"""The line on the screen that shows how far an epoch is."""

from mulsupcon_tf.utils.progress import progress_line

SHOWN_IN_BAR = ("loss", "contrastive_loss", "recovery_loss", "bce_loss", "leak", "val_loss", "knn_mAP")


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
        self._bar = progress_line(total_steps, "step", first=first_step, shown=shown)

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

"""The line on the screen that shows how far an epoch, or another long piece of work, is."""

import logging
import sys

import tqdm

SHOWN_IN_BAR = ("loss", "contrastive_loss", "recovery_loss", "bce_loss", "leak", "val_loss", "knn_mAP")


def progress_line(total: int, unit: str, *, first: int = 0, title: str | None = None, shown: bool = True) -> tqdm.tqdm:
    """A bar on standard error; where that is no terminal, a line now and then.

    Args:
        total: pieces of the whole work.
        unit: name of a piece.
        first: pieces that are done already.
        title: what stands before the bar.
        shown: False for nothing at all.
    """
    interactive = sys.stderr.isatty()
    return tqdm.tqdm(
        total=total,
        initial=first,
        unit=unit,
        desc=title,
        file=sys.stderr,
        disable=not shown,
        dynamic_ncols=interactive,
        mininterval=0.5 if interactive else 20.0,
        ncols=None if interactive else 0,
    )


def say_above(bar: tqdm.tqdm, message: str, *values: object) -> None:
    """Logs a line, which a bar that is shown neither hides nor cuts.

    Args:
        bar: that is open.
        message: with places for the values, as `logging` takes it.
        *values: what is filled in.
    """
    bar.clear()
    logging.getLogger("mulsupcon_tf").info(message, *values)
    bar.refresh()


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

    def say(self, message: str, *values: object) -> None:
        """Logs a line above the bar, unless nothing is shown."""
        if not self._bar.disable:
            say_above(self._bar, message, *values)

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

"""Time in the training loop: what an epoch took, how many steps to run at once, when a checkpoint is due."""

import dataclasses
import time

from mulsupcon_tf.config.common_flags import parse_checkpoint_interval

MAX_STEPS_PER_EXECUTION = 64
SECONDS_PER_EXECUTION = 1.0
FORECAST_SECONDS, LEAST_FORECAST = 2.0, 10.0
MAX_CHECKPOINT_SHARE = 0.02  # of the training time, for checkpoints that are due by time


@dataclasses.dataclass
class EpochTiming:
    """Wall time of the part of an epoch that this process has run.

    The first call of the compiled graph, which contains its compilation, counts as training time but not as speed.

    Attributes:
        seconds: all of it.
        timed_seconds: without the compilation.
        timed_steps: steps in `timed_seconds`.
        waited: seconds of `timed_seconds` spent waiting for data.
    """

    seconds: float = 0.0
    timed_seconds: float = 0.0
    timed_steps: int = 0
    waited: float = 0.0

    def add(self, steps: int, seconds: float, waited: float, *, compiling: bool) -> None:
        """Counts one call of the compiled graph."""
        self.seconds += seconds
        if not compiling:
            self.timed_seconds += seconds
            self.timed_steps += steps
            self.waited += waited

    def samples_per_second(self, batch_size: int) -> float | None:
        """Training speed; None where only the first call was made."""
        return self.timed_steps * batch_size / self.timed_seconds if self.timed_steps else None

    @property
    def wait_share(self) -> float | None:
        """Share of the time spent waiting for data; None where only the first call was made."""
        return min(1.0, max(0.0, self.waited / self.timed_seconds)) if self.timed_steps else None


class Pace:
    """How many steps to run in one call: enough to hide its overhead, few enough to heed signals within a second or a step.

    Args:
        fixed: the user's own choice.
    """

    def __init__(self, fixed: int | None):
        self._fixed, self._steps = fixed, 1

    @property
    def steps(self) -> int:
        """Steps for the next call."""
        return self._fixed or self._steps

    def measured(self, steps: int, seconds: float) -> None:
        """Learns from a call that did not compile."""
        self._steps = max(1, min(MAX_STEPS_PER_EXECUTION, int(SECONDS_PER_EXECUTION * steps / max(seconds, 1e-9))))


class Forecast:
    """Says once how long the rest of a run will take, from the pace of its first steps.

    Args:
        total_steps: of the whole run.
    """

    def __init__(self, total_steps: int):
        self._total, self._steps, self._seconds, self._said = total_steps, 0, 0.0, False

    def after(self, step: int, steps: int, seconds: float) -> float | None:
        """Counts a call that did not compile.

        Args:
            step: finished steps now.
            steps: those of the call.
            seconds: that it took.

        Returns:
            The seconds that are left, after the first calls that took `FORECAST_SECONDS` together; None later, and where it
            is less than `LEAST_FORECAST`.
        """
        self._steps, self._seconds = self._steps + steps, self._seconds + seconds
        if self._said or self._seconds < FORECAST_SECONDS:
            return None
        self._said = True
        left = (self._total - step) * self._seconds / self._steps
        return left if left >= LEAST_FORECAST else None


class CheckpointClock:
    """Says when the next checkpoint is due.

    Args:
        interval: the value of `--checkpoint_every`.
        step: finished steps now.
        epoch: finished epochs now.
    """

    def __init__(self, interval: str, step: int, epoch: int):
        self.amount, self.unit = parse_checkpoint_interval(interval)
        self._step, self._epoch, self._time = step, epoch, time.monotonic()
        self._cost = 0.0

    def steps_left(self, step: int) -> int | None:
        """Steps until the next checkpoint, where steps are what is counted."""
        return int(self.amount) - (step - self._step) if self.unit == "steps" else None

    def due(self, step: int, epoch: int) -> bool:
        """Whether a checkpoint is due. By time, it is put off while checkpoints would take more than 2% of the time."""
        if self.unit == "seconds":
            return time.monotonic() - self._time >= max(self.amount, self._cost / MAX_CHECKPOINT_SHARE)
        return (step - self._step if self.unit == "steps" else epoch - self._epoch) >= self.amount

    def saved(self, step: int, epoch: int, seconds: float) -> None:
        """Notes a checkpoint that took `seconds` to write."""
        self._step, self._epoch, self._time, self._cost = step, epoch, time.monotonic(), seconds

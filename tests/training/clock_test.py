import time

import pytest

from mulsupcon_tf.training import clock as training_clock
from mulsupcon_tf.training.clock import CheckpointClock, EpochTiming, Forecast, Pace


def test_speed_leaves_out_the_call_that_compiles():
    timing = EpochTiming()
    timing.add(1, 30.0, 1.0, compiling=True)
    assert timing.samples_per_second(8) is None
    assert timing.wait_share is None
    timing.add(4, 1.0, 0.5, compiling=False)
    timing.add(6, 1.0, 0.1, compiling=False)
    assert timing.samples_per_second(8) == 40.0
    assert timing.wait_share == pytest.approx(0.3)
    assert timing.seconds == 32.0


def test_a_call_lasts_about_a_second_and_has_at_least_one_step():
    pace = Pace(None)
    assert pace.steps == 1
    for seconds_a_step, steps in ((0.25, 4), (3.0, 1), (1e-6, 64), (0.1, 10)):
        pace.measured(2, 2 * seconds_a_step)
        assert pace.steps == steps
    fixed = Pace(5)
    fixed.measured(1, 60.0)
    assert fixed.steps == 5


def test_the_time_that_is_left_is_said_once_from_the_pace_of_the_first_seconds():
    forecast = Forecast(total_steps=1000)
    assert forecast.after(1 + 10, 10, 1.5) is None  # too short to tell
    assert forecast.after(11 + 20, 20, 1.5) == pytest.approx((1000 - 31) * 3.0 / 30)
    assert forecast.after(31 + 20, 20, 1.5) is None
    assert Forecast(total_steps=50).after(20, 20, 3.0) is None  # 4.5 seconds are not worth a line


def test_checkpoints_by_steps_and_by_epochs():
    clock = CheckpointClock("10", step=3, epoch=0)
    assert [clock.due(step, 0) for step in (3, 12, 13, 14)] == [False, False, True, True]
    assert clock.steps_left(5) == 8
    clock.saved(13, 1, 0.1)
    assert not clock.due(22, 9)
    epochs = CheckpointClock("2e", step=0, epoch=1)
    assert [epochs.due(1000, epoch) for epoch in (1, 2, 3)] == [False, False, True]
    assert epochs.steps_left(5) is None


def test_checkpoints_by_time_never_take_more_than_a_fiftieth_of_it(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(training_clock, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    clock = CheckpointClock("30s", step=0, epoch=0)
    now[0] += 29
    assert not clock.due(1, 0)
    now[0] += 1
    assert clock.due(1, 0)
    clock.saved(1, 0, seconds=2.0)
    now[0] += 99
    assert not clock.due(2, 0)
    now[0] += 1
    assert clock.due(2, 0)
    assert time.monotonic() > 0  # the real clock is untouched

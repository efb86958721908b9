import os
import signal
import threading

import pytest

from mulsupcon_tf.training.termination import TerminationNotice
from mulsupcon_tf.utils.errors import TerminationError


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_its_error_says_what_schedulers_understand(number, status):
    with (
        pytest.raises(TerminationError, match=f"{number.name}; everything is saved") as raised,
        TerminationNotice() as notice,
    ):
        assert notice.received is None
        os.kill(os.getpid(), number)
        raise TerminationError(notice.received)
    assert raised.value.exit_status == status


def test_the_second_signal_is_not_held_back():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start its background jobs without
    try:
        with pytest.raises(KeyboardInterrupt), TerminationNotice():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_afterwards_signals_do_what_they_did_before():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with TerminationNotice():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_in_another_thread_it_does_nothing():
    seen = []

    def enter():
        with TerminationNotice() as notice:
            seen.append(notice.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]

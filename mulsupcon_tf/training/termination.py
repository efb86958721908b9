"""Orders to end (SIGTERM of a scheduler, Ctrl-C), heeded where nothing is half done."""

import os
import signal
import threading
import types

from mulsupcon_tf.utils import sigterm

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TerminationNotice:
    """While it is entered, the first SIGTERM or SIGINT is only noted; a second one does what it always does.

    Python runs signal handlers in the main thread alone; in another thread nothing is noted.

    Attributes:
        received: the number of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "TerminationNotice":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._restore()
        if self.received is not None and kind is None:  # too late for whoever looked: it does what it always does
            os.kill(os.getpid(), self.received)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.received = number
        if number == signal.SIGTERM:
            sigterm.taken()
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}

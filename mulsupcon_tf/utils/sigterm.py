"""SIGTERM of a scheduler from a program's first moment on: outside of training it ends the process at once.

The operating system would do so by itself, but not for the first process of a container, which gets no signal that it has
no handler for; and TensorFlow swallows it from where workers join.
"""

import os
import signal
import socket
import threading
import types

STATUS = 128 + signal.SIGTERM
_LINE = b"error: Stopped by SIGTERM; the same command starts again from the last checkpoint, if there is one.\n"
_ending = threading.Lock()


class _Counts:
    """Signals that arrived, as the watcher saw them, and those that training took for itself."""

    arrived = 0
    taken = 0


def end_at_sigterm() -> None:
    """From now on SIGTERM ends this process with status 143, unless a handler is set that takes it; for a main thread."""
    signal.signal(signal.SIGTERM, _end)
    # Python calls handlers between two steps of its main thread, which may spend minutes in a call of TensorFlow.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def taken() -> None:
    """Says that a handler has taken a SIGTERM: it is not to end the process any more."""
    _Counts.taken += 1


def _watch(arrivals: socket.socket) -> None:
    while arrived := arrivals.recv(1):
        _Counts.arrived += arrived[0] == signal.SIGTERM
        if _Counts.arrived > _Counts.taken and signal.getsignal(signal.SIGTERM) is _end:
            _end(signal.SIGTERM, None)


def _end(number: int, frame: types.FrameType | None) -> None:
    # The main thread and the watcher may both come here for one signal; whoever is second leaves the end to the first.
    if not _ending.acquire(blocking=False):
        return
    os.write(2, _LINE)  # print() may be at work in what was interrupted
    os._exit(STATUS)

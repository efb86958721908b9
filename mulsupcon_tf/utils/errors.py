"""The exceptions that are no defects of the program: the user can mend something, or somebody ordered it to end."""

import signal


class InputError(ValueError):
    """Wrong input: a flag, a file, a shape, a label.

    The message is one line: the rule first, then `Received: ...`. The binaries print it without a traceback and exit
    with status 1; in Python it is an ordinary `ValueError`. A setting stands there as its flag, `--data_dir`; in Python that
    is the argument, or the field of the config, of the same name, `data_dir`.
    """


def in_brief(error: BaseException) -> str:
    """What a library says was wrong, on one line of at most 200 characters: some print whole configurations."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:199]}…"


class TerminationError(Exception):
    """A signal asked the process to end, and everything that was computed is saved.

    Args:
        signal_number: of SIGTERM or SIGINT.

    Attributes:
        exit_status: 128 + the signal's number, which shells and schedulers read as "ended by this signal".
    """

    def __init__(self, signal_number: int):
        name = signal.Signals(signal_number).name
        super().__init__(f"Stopped by {name}; everything is saved and the same command continues.")
        self.exit_status = 128 + signal_number

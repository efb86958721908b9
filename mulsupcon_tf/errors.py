"""The one exception that means: the user can mend this, and one line says how."""


class InputError(ValueError):
    """Wrong input: a flag, a file, a shape, a label.

    The message is one line: the rule first, then `Received: ...`. The binaries print it without a traceback and exit
    with status 1; in Python it is an ordinary `ValueError`.
    """

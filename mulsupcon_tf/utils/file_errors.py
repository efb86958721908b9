"""What TensorFlow's own file writers raise, as the `OSError` that Python's raise: the binaries print one line of it."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

import tensorflow as tf

from mulsupcon_tf.utils.atomic_file import naming

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


@contextlib.contextmanager
def as_os_error(path: pathlib.Path) -> Iterator[None]:
    """Raises a failure of the file system, of TensorFlow's own writers too, as `OSError` that names a path; others pass.

    Args:
        path: what the block writes.
    """
    try:
        with naming(path):
            yield
    except tf.errors.OpError as error:
        for number in _NUMBERS:
            if os.strerror(number) in error.message:
                raise OSError(number, os.strerror(number), str(path)) from error
        raise

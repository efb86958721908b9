import errno
import os
import pathlib
import signal

import pytest
import tensorflow as tf

from mulsupcon_tf.utils.file_errors import as_os_error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES])
def test_what_the_file_system_refuses_is_an_os_error_that_names_the_place(number):
    with pytest.raises(OSError, match=os.strerror(number)) as caught, as_os_error(pathlib.Path("a/b")):
        raise tf.errors.UnknownError(None, None, f"/x/part-0; {os.strerror(number)}")
    assert (caught.value.errno, caught.value.filename) == (number, "a/b")


def test_another_error_passes():
    with pytest.raises(tf.errors.InvalidArgumentError), as_os_error(pathlib.Path("a")):
        raise tf.errors.InvalidArgumentError(None, None, "shapes differ")


def test_a_saved_model_that_would_be_too_large_is_an_os_error(tmp_path):
    """A limit of the process, `ulimit -f`, as some clusters set it: TensorFlow's writer says so in words of its own."""
    resource = pytest.importorskip("resource")
    module = tf.Module()
    module.table = tf.Variable(tf.zeros([40_000]))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(OSError, match="File too large"), as_os_error(tmp_path):
            tf.saved_model.save(module, str(tmp_path / "model"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

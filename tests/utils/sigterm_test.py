"""Small programs, one of them the first process of its container, that get SIGTERM."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from mulsupcon_tf.utils import sigterm
from tests.helpers.binaries import REPOSITORY

START = """
import ctypes, os, signal, time
from mulsupcon_tf.training.termination import TerminationNotice
from mulsupcon_tf.utils.sigterm import end_at_sigterm
end_at_sigterm()
def ready():
    print("ready", flush=True)
"""
IN_PYTHON = "ready()\nwhile True: pass"
# What no signal interrupts, and what leaves Python to its other threads meanwhile, as TensorFlow does.
IN_C = "mutex = ctypes.create_string_buffer(64); lock = ctypes.CDLL(None).pthread_mutex_lock; lock(mutex)\nready(); lock(mutex)"
HEEDED = """
with TerminationNotice() as notice:
    ready()
    while notice.received is None: time.sleep(0.01)
    time.sleep(0.3)
    print("saved", flush=True)
"""
AGAIN = HEEDED.replace("    time.sleep(0.3)", "    while True: pass")
LATE = """
with TerminationNotice() as notice:
    ready()
    while notice.received is None: time.sleep(0.01)
print("went on", flush=True)
"""
ALONE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]  # makes process 1 of a container


def can_be_process_1():
    return bool(shutil.which("unshare")) and not subprocess.run([*ALONE, "true"], check=False).returncode


def terminated(program, *, first_of_container=False, times=1):
    """Exit status and output of a program that gets so many SIGTERMs after it is ready."""
    line = [*(ALONE if first_of_container else []), sys.executable, "-c", START + program]
    with subprocess.Popen(line, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        number = process.pid
        if first_of_container:
            number = int(pathlib.Path(f"/proc/{number}/task/{number}/children").read_text())
        for _ in range(times):
            os.kill(number, signal.SIGTERM)
            time.sleep(0.2)
        try:
            output, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    return process.returncode, output, errors


@pytest.mark.parametrize("program", [IN_PYTHON, IN_C])
@pytest.mark.parametrize("first_of_container", [False, True])
def test_it_ends_a_program_with_143_wherever_it_is(program, first_of_container):
    if first_of_container and not can_be_process_1():
        pytest.skip("needs a PID namespace")
    status, output, errors = terminated(program, first_of_container=first_of_container)
    assert (status, output) == (143, "")
    assert errors == (
        "error: Stopped by SIGTERM; the same command starts again from the last checkpoint, if there is one.\n"
    )


def test_the_line_is_said_once_where_two_threads_see_one_signal(capfd, monkeypatch):
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(sigterm, "_ending", threading.Lock())
    for _ in range(2):
        sigterm._end(signal.SIGTERM, None)
    assert (ends, capfd.readouterr().err.count("Stopped by SIGTERM")) == ([143], 1)


def test_training_takes_the_first_and_saves():
    program = HEEDED + "    notice.received = None\n"
    assert terminated(program) == (0, "saved\n", "")


def test_a_second_one_ends_training_too():
    status, output, _ = terminated(AGAIN, times=2)
    assert (status, output) == (143, "")


def test_one_that_comes_after_the_last_look_of_training_ends_the_program():
    status, output, _ = terminated(LATE)
    assert (status, output) == (143, "")

"""Programs run to their ends, each in a child of one process that has imported TensorFlow: it starts at once, not after seconds.

What a test holds of the start itself, of an environment that TensorFlow reads when it is imported, or of a process that
is killed, needs a process of its own: `binaries.run_binary`, `scripts.run_script`.
"""

import atexit
import importlib
import json
import os
import pathlib
import runpy
import select
import subprocess
import sys
import tempfile

from mulsupcon_tf.config.command_line import import_tensorflow_quietly
from tests.helpers.binaries import REPOSITORY

_COMMANDS = ("pretraining", "finetuning", "evaluating", "embedding", "exporting", "predicting")
_servers: list[subprocess.Popen] = []  # none or one


def run_forked(module, *arguments, cwd=REPOSITORY, timeout=200):
    """What `python -m MODULE ARGUMENTS...` does, in this environment: a `subprocess.CompletedProcess` with texts.

    It has `cpu_seconds` too, the processor time that it took.
    """
    if not _servers:
        _servers.append(_started())
        atexit.register(_end)
    (server,) = _servers
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
        request = {
            "module": module,
            "arguments": [*map(str, arguments)],
            "cwd": str(cwd),
            "environment": {**os.environ},
        }
        server.stdin.write(json.dumps(request | {"outputs": [*map(str, outputs)]}) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], timeout)[0]:
            _end()
            raise subprocess.TimeoutExpired([module, *arguments], timeout)
        status, seconds = server.stdout.readline().split()
        texts = [path.read_text() for path in outputs]
        done = subprocess.CompletedProcess([module, *arguments], int(status), *texts)
        done.cpu_seconds = float(seconds)
        return done


def forked_binary(binary, *arguments, timeout=200, **flags):
    """The same of a binary of the package, whose flags are given by name; True stands for a bare flag."""
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]
    return run_forked(f"mulsupcon_tf.{binary}", *given, *arguments, timeout=timeout)


def _started():
    line = [sys.executable, "-m", "tests.helpers.forking"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(line, cwd=REPOSITORY, text=True, **pipes)


def _end():
    server = _servers.pop() if _servers else None
    if server:
        server.kill()
        server.communicate()


def _serve():
    """Answers each request, a line of JSON, by the exit status and the processor time of the child that does it.

    In that child it returns the request.
    """
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            return request
        _, status, usage = os.wait4(child, 0)
        print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, flush=True)
    return None


def _become(module, arguments, cwd, environment, outputs):
    """Runs a program in this process, to which nothing of the request is left but what the program is given."""
    for descriptor, path in enumerate(outputs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdin.close()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    import_tensorflow_quietly()
    for name in _COMMANDS:
        importlib.import_module(f"mulsupcon_tf.commands.{name}")
    request = _serve()
    if request is not None:
        _become(**request)

"""Section startup: seconds from the command to the first training step, part by part, and to the answer of --help.

Each figure is that of a process of its own, which runs the code of `python -m mulsupcon_tf.pretrain` and notes the time
after each part. The parts add up to the whole.
"""

import contextlib
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from tools.benchmarks.measurement import Measurement
from tools.benchmarks.worker import importing_from_checkout

SECTION = "startup"
WHOLE = "command to first step"


def measure(settings) -> Iterator[Measurement]:
    """`digits`, scene where there is a `--data_dir`, and `--help`, in turn; the first round warms the machine's caches up."""
    sets: dict[str, tuple[str, ...]] = {"digits": ("--dataset=digits",)}
    if settings.data_dir:
        sets["scene"] = ("--dataset=scene", f"--data_dir={settings.data_dir}")
    rounds = []
    for _ in range(1 + settings.repeats):
        seconds = {name: _parts(flags) for name, flags in sets.items()}
        rounds.append(seconds | {"help": {"whole": _seconds_of_help()}})
    help_note = "imports TensorFlow" if _help_imports_tensorflow() else "imports no TensorFlow"
    for name in sets:
        for part in rounds[0][name]:
            yield Measurement(SECTION, f"{name}: {part}", "s", [each[name][part] for each in rounds[1:]])
    yield Measurement(SECTION, "--help", "s", [each["help"]["whole"] for each in rounds[1:]], help_note)


def _parts(flags: tuple[str, ...]) -> dict[str, float]:
    """Seconds of each part of a start, and of all of it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __spec__.name, repr(time.time()), *flags, f"--workdir={folder}/run"]
        done = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=importing_from_checkout(),
        )
    return json.loads(done.stdout.splitlines()[-1])


def _seconds_of_help() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mulsupcon_tf.pretrain", "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _help_imports_tensorflow() -> bool:
    command = [sys.executable, "-X", "importtime", "-m", "mulsupcon_tf.pretrain", "--help"]
    imports = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return any(line.split("|")[-1].strip() == "tensorflow" for line in imports.splitlines())


class _FirstStepDone(BaseException):
    pass


class _Clock:
    """Seconds of each part since the command was given."""

    def __init__(self, started: float):
        self.started, self.last = started, started
        self.parts: dict[str, float] = {}

    def ended(self, part: str) -> None:
        """Counts the time since the last part for this one."""
        now = time.time()
        self.parts[part] = self.parts.get(part, 0.0) + now - self.last
        self.last = now

    def first_step_done(self, *_) -> None:
        """Ends the run."""
        self.ended("graph of the step and first step")
        raise _FirstStepDone

    def around(self, function: Callable, part: str) -> Callable:
        """The function, whose time is that of a part, and what went before it that of another."""

        @functools.wraps(function)
        def timed(*arguments, **settings):
            self.ended("the rest")
            result = function(*arguments, **settings)
            self.ended(part)
            return result

        return timed


def start_and_note(started: float, flags: list[str]) -> dict[str, float]:
    """Runs the binary up to its first training step in this process.

    Args:
        started: `time.time()` when the command was given.
        flags: its flags.

    Returns:
        Seconds of each part and of the whole.
    """
    clock = _Clock(started)
    from absl import flags as absl_flags

    from mulsupcon_tf.config import command_line
    from mulsupcon_tf.config.flags import PretrainConfig

    values = absl_flags.FlagValues()
    command_line.define_flags(PretrainConfig, values)
    values(["pretrain", *flags])
    config = PretrainConfig(**values.flag_values_dict())
    clock.ended("Python and flags")
    command_line.import_tensorflow_quietly()
    clock.ended("import of TensorFlow and Keras")
    from mulsupcon_tf.commands import pretraining
    from mulsupcon_tf.training import loop as training

    clock.ended("import of the package")
    pretraining.read_dataset = clock.around(pretraining.read_dataset, "dataset")
    pretraining.build_pretrainer = clock.around(pretraining.build_pretrainer, "model")
    pretraining.training_feed = clock.around(pretraining.training_feed, "graph of the input")
    training.ProgressBar.__enter__ = lambda bar: clock.ended("the rest") or bar  # just before the first step
    training.ProgressBar.advance = clock.first_step_done  # just after it
    with contextlib.suppress(_FirstStepDone):
        pretraining.pretrain(config)
    return clock.parts | {WHOLE: clock.last - started}


if __name__ == "__main__":
    parts = start_and_note(float(sys.argv[1]), sys.argv[2:])
    print(json.dumps(parts))

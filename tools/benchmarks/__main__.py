"""How fast training is, part by part, and how close to what the machine can do.

  python -m tools.benchmarks --workdir=runs/benchmark                          # every section
  python -m tools.benchmarks --workdir=runs/benchmark --sections=loss,startup

Each figure is measured several times, in alternation with what it is compared with; the table shows the median and the
spread, and `WORKDIR/benchmark.json` holds every value together with the machine and the versions.
"""

import dataclasses
import importlib
import json
import os
import pathlib
import platform

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.config.fields import Validated, flag, require
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError

# Each is a module here with `measure(settings)`, which yields `Measurement`s.
SECTIONS = ("loss", "scaling", "vectors", "images", "precision", "frozen", "launches", "startup", "peer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Validated):
    """Settings of `tools/benchmarks/__main__.py`."""

    workdir: str = flag(None, "Folder of benchmark.json and of the runs that are timed. Required.", path=True)
    sections: str = flag(",".join(SECTIONS), "Sections, separated by commas.")
    data_dir: str | None = flag(None, "Folder of the Mulan files for the sections vectors and startup.", path=True)
    repeats: int = flag(5, "Rounds of measurements.", minimum=1)
    seeds: int = flag(0, "Section precision: seeds of the runs that compare the scores of the precisions.", minimum=0)
    peer: str | None = flag(None, "Checkout of MulSupCon to time in alternation, for the section peer.", path=True)
    peer_python: str | None = flag(
        None, "Python that has torch and what else the peer needs. Default: this one.", path=True
    )


def main(settings: BenchmarkConfig) -> None:
    """Measures the sections, prints the table; the JSON file grows with every figure."""
    require(settings, "workdir")
    sections = settings.sections.split(",")
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown:
        raise InputError(f"--sections must be among {', '.join(SECTIONS)}. Received: {unknown[0]}")
    from tools.benchmarks.measurement import table

    folder = pathlib.Path(settings.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    measurements = []
    for name in sections:
        for measurement in importlib.import_module(f"tools.benchmarks.{name}").measure(settings):
            measurements.append(measurement)
            result = {"machine": _machine(), "measurements": [one.as_json() for one in measurements]}
            atomic_file.write_text(folder / "benchmark.json", json.dumps(result, indent=2) + "\n")
    print(table(measurements))


def _machine() -> dict:
    import keras
    import tensorflow as tf

    return {
        "processor": platform.processor() or platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "devices": [device.name for device in tf.config.list_physical_devices()],
        "graphics processors": [
            tf.config.experimental.get_device_details(device).get("device_name")
            for device in tf.config.list_physical_devices("GPU")
        ],
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


if __name__ == "__main__":
    run_binary(BenchmarkConfig, main, usage=__doc__)

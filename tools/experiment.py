"""Methods x datasets x seeds through the real binaries, and a Markdown table of mean and deviation.

  python tools/experiment.py --datasets=scene,yeast --data_dir=DIR --workdir=runs/vectors
  python tools/experiment.py --datasets=scene --methods=bce,cld --seeds=0,1 --workdir=runs/try --pretrain_flags="--epochs=40"

Each method is pretrained, fine-tuned, and judged on test with thresholds from validation; `bce` is fine-tuning from
random weights. A run that is finished is not repeated, so the same command continues after an interruption.
"""

import dataclasses
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import tqdm

from mulsupcon_tf import atomic_file, config
from mulsupcon_tf.command_line import run_binary
from mulsupcon_tf.errors import InputError
from mulsupcon_tf.evaluation import METRIC_NAMES
from mulsupcon_tf.run_directory import RunDirectory
from mulsupcon_tf.settings import Validated, flag, require

METHODS = ("bce", *config.METHODS)
COLUMNS = {
    "mAP": "mAP", "precision_at_1": "P@1", "macro_f1": "macro-F1", "micro_f1": "micro-F1",
    "hamming_accuracy": "Hamming acc.", "example_f1": "example-F1",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig(Validated):
    """Settings of `tools/experiment.py`."""

    workdir: str = flag(None, "Folder of all runs and of results.md. Required.")
    data_dir: str | None = flag(None, "Folder of the datasets' files.")
    datasets: str = flag("scene,yeast", "Datasets, separated by commas.")
    methods: str = flag(",".join(METHODS), "Methods, separated by commas; bce is no pretraining.")
    seeds: str = flag("0,1,2", "Seeds, separated by commas.")
    pretrain_flags: str = flag("", "Further flags for every pretraining.")
    finetune_flags: str = flag("", "Further flags for every fine-tuning.")
    linear_probe: bool = flag(False, "Also train a linear layer on each frozen encoder.")
    parallel: int = flag(os.cpu_count() or 1, "Runs at the same time, each on its own share of the cores.", minimum=1)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One method on one dataset with one seed: its runs, in order."""

    dataset: str
    method: str
    seed: int
    root: pathlib.Path

    def directory(self, phase: str) -> pathlib.Path:
        """Run directory of "pretrain", "finetune" or "probe"."""
        return self.root / f"{self.dataset}.{self.method}.{self.seed}.{phase}"

    def commands(self, settings: ExperimentConfig) -> Iterator[list[str]]:
        """Command lines of the runs."""
        common = [f"--dataset={self.dataset}", f"--seed={self.seed}"]
        common += [f"--data_dir={settings.data_dir}"] if settings.data_dir else []
        tuning = [f"--pretrained={self.directory('pretrain')}"] if self.method != "bce" else []
        if self.method != "bce":
            flags = [f"--method={self.method}", *shlex.split(settings.pretrain_flags)]
            yield _command("pretrain", self.directory("pretrain"), common + flags)
        yield _command("finetune", self.directory("finetune"), common + tuning + shlex.split(settings.finetune_flags))
        if settings.linear_probe and self.method != "bce":
            yield _command("finetune", self.directory("probe"), [*common, *tuning, "--linear_probe"])


def main(settings: ExperimentConfig) -> None:
    """Runs everything that is not finished, then prints and writes the table."""
    require(settings, "workdir")
    root = pathlib.Path(settings.workdir)
    datasets, methods = settings.datasets.split(","), settings.methods.split(",")
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise InputError(f"--methods must be among {', '.join(METHODS)}. Received: {unknown[0]}")
    trials = [
        Trial(dataset, method, int(seed), root)
        for seed in settings.seeds.split(",") for dataset in datasets for method in methods
    ]  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[worker :: settings.parallel] or cores for worker in range(settings.parallel)]
    with ThreadPoolExecutor(settings.parallel) as pool, tqdm.tqdm(total=len(trials), unit="trial") as bar:
        for future in [pool.submit(_run, trial, settings, shares) for trial in trials]:
            future.result()
            bar.update()
    text = "\n".join(_table(dataset, methods, trials, settings.linear_probe) for dataset in datasets)
    atomic_file.write_text(root / "results.md", text)
    print(text)


def _command(binary: str, workdir: pathlib.Path, flags: list[str]) -> list[str]:
    return [sys.executable, "-m", f"mulsupcon_tf.{binary}", f"--workdir={workdir}", *flags]


def _run(trial: Trial, settings: ExperimentConfig, shares: list[list[int]]) -> None:
    share = shares.pop()
    try:
        for command in trial.commands(settings):
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, share)
            )  # fmt: skip
            if done.returncode:
                raise InputError(
                    f"Every run must succeed. Received: {done.stderr.strip().splitlines()[-1]} from {' '.join(command[2:])}"
                )
    finally:
        shares.append(share)


def _table(dataset: str, methods: list[str], trials: list[Trial], linear_probe: bool) -> str:
    """Rows of mean ± sample deviation over seeds, in percent."""
    phases = ["finetune", "probe"] if linear_probe else ["finetune"]
    lines = [f"**{dataset}**", "", f"| method | {' | '.join(COLUMNS[name] for name in METRIC_NAMES)} |"]
    lines += ["|---|" + "---|" * len(METRIC_NAMES)]
    for phase in phases:
        for method in methods:
            if method == "bce" and phase == "probe":
                continue
            own = [trial for trial in trials if (trial.dataset, trial.method) == (dataset, method)]
            results = [RunDirectory(trial.directory(phase)).read_summary()["test"] for trial in own]
            cells = [_mean_and_deviation([100 * result[name] for result in results]) for name in METRIC_NAMES]
            lines.append(f"| {method}{' (linear probe)' if phase == 'probe' else ''} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean_and_deviation(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


if __name__ == "__main__":
    run_binary(ExperimentConfig, main, usage=__doc__)

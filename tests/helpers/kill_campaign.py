"""A campaign of kills: runs that are killed again and again and started again by the same command, against undisturbed ones.

The processes are real, the moments are random (seeded). What is compared, is compared bit by bit. One command makes as many
kills as one likes; after an interruption the same command goes on:

    python -m tests.helpers.kill_campaign --folder=DIR --kills=500

It prints the table of docs/reliability.md; DIR/kills.jsonl has every kill.
"""

import argparse
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import zipfile

import h5py
import numpy as np

from tests.helpers.binaries import REPOSITORY, command
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors, write_npz
from tests.helpers.two_workers import free_ports

TIMES = {"seconds", "timed_seconds", "timed_steps", "samples_per_second", "data_wait_share"}
# Steps between checkpoints: most of them lie within an epoch.
COMMON = {"dataset": "npz", "batch_size": 16, "checkpoint_every": "3"}
IMAGES = {"backbone": "resnet8", "image_size": 16, "augmentation": "simclr", "bce_weight": 1, "method": "rld"}
# The queue of mulsupcon holds keys and labels alone. The rate restarts after 1, 3, 7, 15 and 31 epochs of 4 steps.
RESTARTS = {"method": "mulsupcon", "schedule": "restarts", "restart_epochs": 1, "restart_factor": 2}
RESTART_STEPS = (4, 12, 28, 60, 124)
LAST_STEP = {"vectors": 160, "restarts": 160, "images": 160, "tuned": 120, "mirrored": 80, "workers": 80}
TITLES = {
    "vectors": "pretraining on vectors",
    "restarts": "the same by `mulsupcon` with warm restarts",
    "images": "pretraining on images",
    "tuned": "fine-tuning",
    "mirrored": "pretraining on two devices",
    "workers": "pretraining by two workers, one of them killed",
}
MOMENTS = ("first seconds", "training", "training", "first seconds", "training", "training", "end", "end")
PATIENCE = 240  # seconds that a start may take to get where it is to be killed, and workers to end, on a busy machine


class Campaign:
    """Runs of every kind in a folder, where what was done before is found again."""

    def __init__(self, folder):
        self.runs, self.log = folder / "runs", folder / "kills.jsonl"
        vectors, images = (folder / name for name in ("vectors", "images"))
        if not self.runs.exists():
            write_npz(tiny_vectors(), vectors)
            write_npz(tiny_images(), images)
            self.runs.mkdir()
        self.lines = {
            "vectors": command("pretrain", **COMMON, data_dir=vectors, epochs=40),
            "restarts": command("pretrain", **COMMON, **RESTARTS, data_dir=vectors, epochs=40),
            "images": command("pretrain", **COMMON, **IMAGES, data_dir=images, epochs=40),
            "tuned": command("finetune", **COMMON, data_dir=vectors, epochs=30, pretrained=self.runs / "whole_vectors"),
            "mirrored": command(
                "pretrain", **COMMON, data_dir=vectors, epochs=20, strategy="mirrored", logical_devices=2
            ),
            "workers": command("pretrain", **COMMON, data_dir=vectors, epochs=20, strategy="multiworker"),
        }

    def start(self, kind, run, **environment):
        """Starts the process of a run, or its two workers; what they print goes into a file beside it."""
        environments = [{}]
        if kind == "workers":
            cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
            tasks = [{"type": "worker", "index": index} for index in range(2)]
            environments = [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks]
        with said_by(run).open("w") as output:
            return [
                subprocess.Popen(
                    [*self.lines[kind], f"--workdir={run}"],
                    cwd=REPOSITORY,
                    stdout=output,
                    stderr=output,
                    env=os.environ | environment | own,
                )
                for own in environments
            ]

    def finish(self, kind, run):
        """Runs the command to its end, which must be a good one."""
        processes = self.start(kind, run)
        assert [process.wait() for process in processes] == [0] * len(processes), said_by(run).read_text()

    def whole(self, kind):
        """The run directory of an undisturbed run."""
        run = self.runs / f"whole_{kind}"
        if not (run / "summary.json").exists():
            if kind == "tuned":
                self.whole("vectors")
            self.finish(kind, run)
        return run

    def killed(self, kind, number):
        """A run that is killed at each of the moments, ended, and compared.

        Returns:
            By name: "kind", "number", "kills" (moment and newest checkpoint of each), "differing" results.
        """
        expected, run = self.whole(kind), self.runs / f"killed_{kind}_{number}"
        shutil.rmtree(run, ignore_errors=True)  # of an earlier call that did not get to its end
        rng, kills = np.random.default_rng([number, sorted(LAST_STEP).index(kind)]), []
        for moment in MOMENTS:
            if not kill_at(moment, kind, run, self.start(kind, run), rng):
                break
            kills.append((moment, max(checkpoints_of(run), default="none")))
        self.finish(kind, run)
        differing = differences(run, expected)
        if not differing:
            shutil.rmtree(run)
        return {"kind": kind, "number": number, "kills": kills, "differing": differing}

    def records(self):
        """What `killed` gave so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def go_on(self, kills):
        """Kills runs of each kind in turn until there have been so many kills in all."""
        while sum(len(record["kills"]) for record in self.records()) < kills:
            numbers = {kind: sum(record["kind"] == kind for record in self.records()) for kind in LAST_STEP}
            kind = min(numbers, key=numbers.get)
            record = self.killed(kind, numbers[kind])
            with self.log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{kind} {numbers[kind]}: {len(record['kills'])} kills, differing: {record['differing']}", flush=True)

    def table(self):
        """The figures as Markdown."""
        rows = ["| runs | kills | first seconds | training | after the last step | compared | equal in every bit |"]
        rows.append("|---|---|---|---|---|---|---|")
        for kind, title in TITLES.items():
            records = [record for record in self.records() if record["kind"] == kind]
            moments = [moment for record in records for moment, _ in record["kills"]]
            counts = [len(moments), *(moments.count(moment) for moment in ("first seconds", "training", "end"))]
            equal = sum(not record["differing"] for record in records)
            rows.append(f"| {title} | {' | '.join(map(str, (*counts, len(records), equal)))} |")
        return "\n".join(rows)


def said_by(run):
    return run.with_name(f"{run.name}.txt")


# ---- moments


def checkpoints_of(run):
    return {path.name for path in (run / "checkpoints").glob("step-*.npz")}


def wait_until(condition, process):
    end = time.monotonic() + PATIENCE
    while process.poll() is None and not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def kill_at(moment, kind, run, processes, rng):
    """Waits for the moment and kills, of two workers one; returns whether it was still at work. The other must end too."""
    before, victim = checkpoints_of(run), processes[rng.integers(len(processes))]
    last = f"step-{LAST_STEP[kind]:010d}.npz"
    if moment == "first seconds":
        # A quick machine is at its end in less: the first checkpoint ends these seconds, too.
        until = time.monotonic() + rng.uniform(0, 8)
        wait_until(lambda: time.monotonic() > until or checkpoints_of(run) - before, victim)
    elif moment == "training":
        wait_until(lambda: checkpoints_of(run) - before, victim)
        time.sleep(rng.uniform(0, 0.25))
    elif moment == "end":
        wait_until(lambda: last in checkpoints_of(run), victim)
        time.sleep(rng.uniform(0, 0.2))
    victim.kill()
    for process in processes:
        if moment == "first seconds" or last in before:
            process.kill()  # it may not have met the other yet, and would wait for it
        process.wait(PATIENCE)
    return victim.returncode == -signal.SIGKILL


# ---- what is compared


def weights_of(file):
    arrays = {}
    with h5py.File(file) as weights:
        weights.visititems(
            lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return arrays


def without_times(record):
    return {name: value for name, value in record.items() if name not in TIMES}


def results_of(run):
    """Everything that a run leaves but the times: {name: array or plain value}."""
    newest = max((run / "checkpoints").iterdir())
    results = {"newest": newest.name, "summary": without_times(json.loads((run / "summary.json").read_text()))}
    with np.load(newest) as checkpoint:
        results |= {f"checkpoint/{name}": checkpoint[name] for name in checkpoint.files if name != "progress"}
        results["progress"] = without_times(json.loads(str(checkpoint["progress"])))
    with np.load(run / "test_outputs.npz") as outputs:
        results |= {f"outputs/{name}": outputs[name] for name in outputs.files}
    for number, line in enumerate((run / "metrics.jsonl").read_text().splitlines()):
        results[f"epoch {number + 1}"] = without_times(json.loads(line))
    if (run / "model.keras").exists():
        with zipfile.ZipFile(run / "model.keras") as archive:
            results |= weights_of(io.BytesIO(archive.read("model.weights.h5")))
        variables = run / "saved_model" / "variables" / "variables.data-00000-of-00001"
        results["saved_model"] = np.frombuffer(variables.read_bytes(), np.uint8)
    else:
        results |= weights_of(run / "encoder.weights.h5")
    return results


def differences(run, other):
    """The names of results in which two runs differ, and of files that are half written."""
    results, expected = results_of(run), results_of(other)
    differing = sorted(results.keys() ^ expected.keys())
    for name in results.keys() & expected.keys():
        equal = np.array_equal if isinstance(expected[name], np.ndarray) else lambda mine, yours: mine == yours
        if not equal(results[name], expected[name]):
            differing.append(name)
    return differing + [path.name for path in run.rglob(".partial*")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=pathlib.Path, required=True, help="what the campaign has made, kept between calls"
    )
    parser.add_argument("--kills", type=int, default=500, help="kills in all, with those of earlier calls")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(given.folder.resolve())
    campaign.go_on(given.kills)
    print(campaign.table())


if __name__ == "__main__":
    main()

import json
import os
import subprocess
import sys
import time

import pytest

from tests.helpers.binaries import REPOSITORY

IN_TORCH = ("torch-bfloat16", "torch-float32")  # PyTorch is none of what the project needs
SETTINGS = [
    *("product", "bfloat16", "float16", "float32", "xla-bfloat16", "blocks", "blocks-of-4096"),
    *("bfloat16-channels-first", "profile", *IN_TORCH, "tests"),
]


def lines_of(folder, seconds):
    """What the script leaves in so many seconds on a processor, and how long it took."""
    start = time.monotonic()
    subprocess.run(
        [str(REPOSITORY / "tools" / "benchmarks" / "gpu.sh"), str(folder)],
        env=os.environ | {"PYTHON": sys.executable, "GPU_SMALL": "1", "GPU_SECONDS": str(seconds)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    text = (folder / "results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()], time.monotonic() - start


def test_it_ends_when_its_time_is_over_and_says_of_each_setting_how_it_ended(tmp_path):
    lines, took = lines_of(tmp_path, seconds=1)
    assert [line["setting"] for line in lines if "status" in line] == SETTINGS
    assert {line["status"] for line in lines if "status" in line} <= {"124", "137", "skipped", "no PyTorch"}
    assert took < 1 + 3 + 5  # the limit, the grace before a process is killed, and a busy machine


@pytest.mark.slow
def test_each_setting_leaves_its_figures(tmp_path):
    lines, _ = lines_of(tmp_path, seconds=530)
    ended = {line["setting"]: line["status"] for line in lines if "status" in line}
    assert {ended.pop(name) for name in IN_TORCH} <= {"0", "no PyTorch"}
    assert ended == dict.fromkeys(sorted(set(SETTINGS) - set(IN_TORCH)), "0")
    figures = {(line["setting"], line["figure"]): line["values"] for line in lines if "figure" in line}
    losses = {name: values for (name, figure), values in figures.items() if figure == "mean of the losses so far"}
    assert len(losses) == 5
    for name, values in losses.items():
        assert values == pytest.approx(losses["float32"], rel=0.01), name
        assert figures[name, "resnet8 32 px, samples/s"][0] > 0
        assert figures[name, "bad steps so far"][-1] <= (5 if name == "float16" else 0)
    assert figures["blocks", "cld, B 8, K 40, D 4, C 3, ms"][0] > 0
    assert figures["profile", "files of the profile"]
    assert figures["tests", "exit status of pytest"] == [0]

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.scripts import assert_one_line, run_script


@pytest.mark.slow  # eight processes that import TensorFlow
def test_the_benchmark_writes_its_images_once_and_a_row_for_each_setting(tmp_path):
    flags = (f"--workdir={tmp_path}", "--images=64", "--batch_size=8", "--rounds=1", "--seconds=0.2")
    done = run_script("tools.benchmarks.input", *flags)
    assert done.returncode == 0, done.stderr
    images = sorted((tmp_path / "images").glob("*.jpg"))
    assert len(images) == 64
    assert {Image.open(path).size for path in images} == {(640, 480), (480, 640)}
    assert 100_000 < np.mean([path.stat().st_size for path in images]) < 160_000  # like COCO's
    result = json.loads((tmp_path / "input.json").read_text())
    names = [row["setting"] for row in result["rows"]]
    assert names == [
        "decoding alone",
        "simple, 64 px",
        "simple, 224 px",
        "simclr, 64 px",
        "simclr, 224 px",
        "simple, 64 px, cached",
    ]
    assert result["rows"][0]["share_of_decoding"] == 1
    assert all(row["images_per_second"] > 0 and row["most_memory"] >= row["least_memory"] for row in result["rows"])
    assert all(f"| {name} |" in done.stdout for name in names)


def test_a_missing_folder_is_one_line():
    assert_one_line(run_script("tools.benchmarks.input"), "--workdir is required")

import json

import pytest

from tests.helpers.scripts import run_script


@pytest.mark.slow
def test_the_section_startup_adds_its_parts_up_and_finds_help_without_tensorflow(tmp_path):
    done = run_script("tools.benchmarks", f"--workdir={tmp_path}", "--sections=startup", "--repeats=1")
    assert done.returncode == 0, done.stderr
    measurements = json.loads((tmp_path / "benchmark.json").read_text())["measurements"]
    seconds = {one["name"]: one["median"] for one in measurements}
    parts = [value for name, value in seconds.items() if name.startswith("digits: ") and "command" not in name]
    assert len(parts) == 8 and min(parts) > 0
    assert seconds["digits: command to first step"] == pytest.approx(sum(parts), abs=0.01)
    assert next(one for one in measurements if one["name"] == "--help")["note"] == "imports no TensorFlow"

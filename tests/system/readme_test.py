"""The program of the README, word for word but for the number of its steps."""

import pathlib
import re

import numpy as np
import tensorflow as tf

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_the_program_of_the_readme_trains_and_exports(tmp_path, monkeypatch):
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([line for line in program.splitlines() if line]) <= 15
    short = re.sub(r"(epochs|steps_per_epoch)=\d+", r"\1=1", program)
    assert short.count("=1,") + short.count("=1)") >= 4
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(short, "README.md", "exec"), names)
    scenes = names["data"].splits["test"].inputs[:3].astype("float32")
    exported = tf.saved_model.load(str(tmp_path / "digits_model"))
    np.testing.assert_allclose(exported.serve(scenes), names["classifier"](scenes), rtol=1e-4, atol=1e-5)

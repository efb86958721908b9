"""A batch that is not finite in the share of one of two real workers: both leave its step out, and neither waits for the other."""

import numpy as np
import pytest

from mulsupcon_tf.training.run_directory import RunDirectory
from tests.helpers.tiny_datasets import tiny_vectors, write_npz
from tests.helpers.two_workers import outcomes_of

SPOILT = {"of the chief": ([2], []), "of the other": ([], [2]), "of both, once at the same step": ([2, 5], [5, 9])}
ALWAYS = ([], list(range(1, 12)))
FLOAT16 = {"mixed_precision": "float16"}
# By name: the binary, the steps of each worker that are spoilt, and further settings.
GOING_ON = {
    **{f"pretrain, {which}": ("pretrain", spoilt, {}) for which, spoilt in SPOILT.items()},
    "finetune, of both": ("finetune", SPOILT["of both, once at the same step"], {}),
    "float16, of the other": ("pretrain", SPOILT["of the other"], FLOAT16),
}
ENDING = {
    "pretrain": ("pretrain", ALWAYS, {"max_bad_steps": 4}),
    "finetune": ("finetune", ALWAYS, {"max_bad_steps": 4}),
    "a learning rate at which all overflows": ("pretrain", ([], []), {"optimizer": "sgd", "learning_rate": 1e30}),
}


def flags(workdir, data, **settings):
    common = {
        "dataset": "npz",
        "data_dir": data,
        "batch_size": 16,
        "epochs": 3,
        "strategy": "multiworker",
        "steps_per_execution": 5,
        "workdir": workdir,
    }
    return [f"--{name}={value}" for name, value in (common | settings).items()]


def start(folder, data, binary, spoilt, settings):
    folder.mkdir()
    given = flags(folder / "run", data, **settings)
    return {"binary": binary, "arguments": [given] * 2, "spoilt": spoilt, "left_in": str(folder), "timeout": 200}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoilt")
    data = write_npz(tiny_vectors(), folder / "data")
    pairs = {name: start(folder / name, data, *pair) for name, pair in (GOING_ON | ENDING).items()}
    return folder, dict(zip(pairs, outcomes_of(list(pairs.values())), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", GOING_ON)
def test_both_workers_leave_the_step_out_and_end_with_the_same_bits(outcomes, name):
    folder, of = outcomes
    assert of[name]["statuses"] == [0, 0], of[name]["lines"]
    run = RunDirectory(folder / name / "run")
    _, spoilt, settings = GOING_ON[name]
    overflows = sum(record["bad_steps"] for record in run.epochs()) - len({*spoilt[0], *spoilt[1]})
    assert overflows == 0 if settings != FLOAT16 else overflows >= 0  # its first loss scale may be too large
    assert run.read_summary()["steps"] == 12
    one, other = (np.load(folder / name / f"{worker}.npz") for worker in range(2))
    assert len(one.files) == len(other.files) > 10
    for array in one.files:
        assert np.isfinite(one[array].astype(float)).all()
        np.testing.assert_array_equal(one[array], other[array], err_msg=array)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDING)
def test_too_many_of_them_end_both_workers_with_the_same_line(outcomes, name):
    _, of = outcomes
    assert of[name]["statuses"] == [1, 1], of[name]["lines"]
    last = [lines[-1] for lines in of[name]["lines"]]
    assert last[0] == last[1] and "bad steps in a row from step 2 on" in last[0]
    assert not any("Traceback" in line for lines in of[name]["lines"] for line in lines)

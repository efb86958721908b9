"""SIGTERM to the real programs: in each phase of one process, and to workers whose launcher kills the rest."""

import signal

import pytest

from mulsupcon_tf.training.run_directory import RunDirectory
from tests.helpers.tiny_datasets import tiny_vectors, write_npz
from tests.helpers.two_workers import outcomes_of

# The function within which the signal comes, of modules of `commands`.
PHASES = {
    "loading": "pretraining.read_dataset",
    "building": "pretraining.build_pretrainer",
    "judging": "pretraining.encode",
    "saving": "pretraining.save_weights",
}
ENDED = "error: Stopped by SIGTERM; the same command starts again from the last checkpoint, if there is one."
SAVED = "error: Stopped by SIGTERM; everything is saved and the same command continues."


def flags(data, workdir, **settings):
    common = {"dataset": "npz", "data_dir": data, "batch_size": 16, "method": "mulsupcon", "workdir": workdir}
    return [f"--{name}={value}" for name, value in (common | settings).items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("termination")


@pytest.fixture(scope="module")
def data(folder):
    return write_npz(tiny_vectors(), folder / "data")


@pytest.fixture(scope="module")
def ended(folder, data):
    """What came of a process in each phase, and of two workers while they load."""
    alone = {
        phase: {
            "binary": "pretrain",
            "arguments": [flags(data, folder / phase, max_steps=1)],
            "environments": [{}],
            "signal_in": place,
        }
        for phase, place in PHASES.items()
    }
    worker = flags(data, folder / "workers", strategy="multiworker")
    both = {"binary": "pretrain", "arguments": [worker] * 2, "signal_in": PHASES["loading"]}
    return dict(zip([*alone, "workers"], outcomes_of([*alone.values(), both]), strict=True))


@pytest.mark.parametrize("phase", [*PHASES, "workers"])
def test_outside_of_training_it_ends_every_phase_with_143(ended, folder, phase):
    assert set(ended[phase]["statuses"]) == {143}
    for lines in ended[phase]["lines"]:
        assert lines[-1] == ENDED
    assert not (folder / phase / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("times", [2, 20])
def test_no_step_is_lost_where_the_launcher_kills_the_other_workers_when_one_ends(folder, data, times):
    """As `srun --kill-on-bad-exit=1` does. No checkpoint is due, so that what is there was saved at the signal."""
    run = RunDirectory(folder / f"launched-{times}")
    worker = flags(
        data, run.path, strategy="multiworker", epochs=100000, checkpoint_every=10000000, checkpoints_kept=times
    )
    start = {"binary": "pretrain", "arguments": [worker] * 2, "terminate_after": str(run.metrics_file), "timeout": 200}
    outcomes = outcomes_of([start] * times)
    saved = sorted(int(path.stem.removeprefix("step-")) for path in run.checkpoints.iterdir())
    assert len(saved) == times
    assert saved[-1] >= max(record["step"] for record in run.epochs())
    for number, outcome in enumerate(outcomes):
        assert 143 in outcome["statuses"] and set(outcome["statuses"]) <= {143, -signal.SIGKILL}
        said = [line for lines in outcome["lines"] for line in lines]
        assert SAVED in said
        assert not number or [line for line in said if line.endswith(f"(step {saved[number - 1]})")]

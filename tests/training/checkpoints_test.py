import logging
import math
import tracemalloc

import keras
import numpy as np
import pytest

from mulsupcon_tf.training.checkpoints import CheckpointStore, assign_all
from mulsupcon_tf.utils.errors import InputError

RNG = np.random.default_rng(0)


def state(step):
    """Arrays of every kind that a checkpoint meets; eleven in a group, so that their order by name is tried."""
    model = [RNG.normal(size=(3, 2)).astype(np.float32) + step + index for index in range(11)]
    return {"model": [*model, np.array(step, np.int64)], "optimizer": [np.float32(0.5), np.zeros((0, 4), np.float32)]}


def same(one, other):
    if {group: len(arrays) for group, arrays in one.items()} != {group: len(arrays) for group, arrays in other.items()}:
        return False
    pairs = [pair for group in one for pair in zip(one[group], other[group], strict=True)]
    return all(np.array_equal(a, b) and np.asarray(a).dtype == b.dtype for a, b in pairs)


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints")


def test_what_is_read_is_what_was_written(store):
    saved = state(7)
    store.save(7, saved, {"epoch": 3, "best_loss": math.inf, "stopped": False})
    loaded, progress = store.load_latest()
    assert same(saved, loaded)
    assert progress == {"epoch": 3, "best_loss": math.inf, "stopped": False}


def test_progress_is_read_without_the_arrays_from_the_newest_file_that_has_it(store):
    assert store.latest_progress() == {}
    for step in (3, 7):
        store.save(step, state(step), {"step": step})
    assert store.latest_progress() == {"step": 7}
    max(store.directory.iterdir()).write_bytes(b"PK")
    assert store.latest_progress() == {"step": 3}


def test_an_empty_folder_has_no_checkpoint(store):
    assert store.load_latest() is None


def test_the_newest_two_are_kept_and_the_newest_is_read(store):
    for step in (5, 90, 100, 1000):  # by number, not by text
        store.save(step, state(step), {"step": step})
    assert sorted(path.name for path in store.directory.iterdir()) == ["step-0000000100.npz", "step-0000001000.npz"]
    assert store.load_latest()[1] == {"step": 1000}


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "flipped bit"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(store, damage, caplog):
    first = state(1)
    store.save(1, first, {"step": 1})
    store.save(2, state(2), {"step": 2})
    newest = store.directory / "step-0000000002.npz"
    content = bytearray(newest.read_bytes())
    if damage == "flipped bit":
        content[len(content) // 3] ^= 4
    newest.write_bytes(
        {"truncated": content[:-200], "empty": b"", "garbage": b"x" * 500, "flipped bit": bytes(content)}[damage]
    )
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        loaded, progress = store.load_latest()
    assert same(first, loaded)
    assert progress == {"step": 1}
    assert "step-0000000002.npz is damaged" in caplog.text


def test_no_flipped_bit_is_taken_for_data(store):
    """Whichever byte is damaged, what is read is what was written, of this checkpoint or of the one before."""
    first, second = state(1), state(2)
    store.save(1, first, {"step": 1})
    store.save(2, second, {"step": 2})
    newest = store.directory / "step-0000000002.npz"
    content = newest.read_bytes()
    before = 0
    table_of_contents = range(len(content) - 60, len(content))
    for place in [*RNG.choice(len(content), size=250, replace=False), *table_of_contents]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << RNG.integers(8)
        newest.write_bytes(damaged)
        loaded, progress = store.load_latest()
        assert same({1: first, 2: second}[progress["step"]], loaded), place
        before += progress["step"] == 1
    assert before > 150


def names(store):
    return [int(path.stem.removeprefix("step-")) for path in sorted(store.directory.iterdir())]


@pytest.mark.parametrize("kept", [1, 2])
def test_what_was_just_written_stays_and_a_damaged_one_does_not_count(store, kept):
    for step in (100, 200):
        store.save(step, state(step), {"step": step})
    (store.directory / "step-0000000200.npz").write_bytes(b"garbage")
    resumed = CheckpointStore(store.directory, kept)
    assert resumed.load_latest()[1] == {"step": 100}
    resumed.save(130, state(130), {"step": 130})
    assert names(store) == ([130, 200] if kept == 1 else [100, 130, 200])
    assert resumed.load_latest()[1] == {"step": 130}
    resumed.save(190, state(190), {"step": 190})
    resumed.save(250, state(250), {"step": 250})
    assert names(store) == [190, 250][-kept:]


def test_a_damaged_one_that_is_written_anew_counts_again(store):
    for step in (100, 200):
        store.save(step, state(step), {"step": step})
    (store.directory / "step-0000000200.npz").write_bytes(b"garbage")
    store.load_latest()
    for step in (150, 200, 250):
        store.save(step, state(step), {"step": step})
    assert names(store) == [200, 250]


def test_where_all_are_damaged_training_does_not_silently_start_anew(store):
    store.save(1, state(1), {})
    (store.directory / "step-0000000001.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="Received: only damaged ones in "):
        store.load_latest()


def test_a_file_that_was_being_written_is_not_read(store):
    store.save(1, state(1), {"step": 1})
    (store.directory / ".partial-77-step-0000000002.npz").write_bytes(b"half")
    assert store.load_latest()[1] == {"step": 1}


def test_arrays_are_assigned_all_or_none():
    variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in ((2,), (3, 1))]
    assign_all(variables, [np.ones(2), np.full((3, 1), 2)], "model")
    assert [variable.numpy().sum() for variable in variables] == [2, 6]
    for arrays, received in (
        ([np.zeros(2), np.zeros((1, 3))], "2 variables, the first difference at number 1"),
        ([np.zeros(2)], "1 variables, the first difference at number 1"),
        ([np.zeros(2), np.zeros((3, 1)), np.zeros(1)], "3 variables, the first difference at number 2"),
    ):
        with pytest.raises(InputError, match=f"checkpoint's model must have 2 variables.*Received: {received}"):
            assign_all(variables, arrays, "model")
        assert [variable.numpy().sum() for variable in variables] == [2, 6]


def test_a_small_file_with_large_arrays_is_refused_before_they_are_read(store, caplog):
    store.directory.mkdir(parents=True)
    with (store.directory / "step-0000000001.npz").open("wb") as file:
        np.savez_compressed(file, **{"model/00000": np.zeros(2**24, np.float32)}, count=np.array(1), progress="{}")
    tracemalloc.start()
    with pytest.raises(InputError, match="only damaged ones"):
        store.load_latest()
    assert store.latest_progress() == {}
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert "compressed arrays" in caplog.text

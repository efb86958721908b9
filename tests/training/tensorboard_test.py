import pathlib

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from mulsupcon_tf.training.tensorboard import ProgressBar, TensorBoard


def events(folder: pathlib.Path):
    """{tag: [(step, tensor)]} of all event files in a folder."""
    found: dict[str, list] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)))
    return found


def test_every_number_of_a_record_is_a_scalar(tmp_path):
    board = TensorBoard(tmp_path)
    board.log_scalars({"epoch": 1, "loss": 2.5, "leak": 0.25, "samples_per_second": None, "odd": float("nan")}, step=40)
    board.log_scalars({"loss": 1.5}, step=80)
    board.close()
    found = events(tmp_path)
    assert {tag: [(step, float(value)) for step, value in values] for tag, values in found.items()} == {
        "loss/loss": [(40, 2.5), (80, 1.5)],
        "recovery/leak": [(40, 0.25)],
    }


def shown(folder):
    """What TensorBoard shows of the loss, by its own reader: [(step, value)]."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in accumulator.Tensors("loss/loss")]


def one_start(folder, first_step, losses, at):
    """What one start of a run writes; `at` stands in the file's name for its time of day, by which files are read."""
    board = TensorBoard(folder)
    board.begin(first_step)
    for step, loss in losses.items():
        board.log_scalars({"loss": loss}, step)
    board.close()
    (new,) = [path for path in folder.iterdir() if path.name.split(".")[3] > "1000"]
    new.rename(folder / new.name.replace(new.name.split(".")[3], f"{at:010d}"))


def test_a_step_that_a_continued_run_repeats_is_shown_once(tmp_path):
    one_start(tmp_path, 0, {5: 1.0, 10: 2.0, 15: 3.0}, at=100)
    one_start(tmp_path, 11, {15: 30.0, 20: 40.0}, at=200)  # continued from the checkpoint of step 10
    one_start(tmp_path, 21, {25: 50.0}, at=300)
    assert shown(tmp_path) == [(5, 1), (10, 2), (15, 30), (20, 40), (25, 50)]
    one_start(tmp_path, 0, {5: 7.0}, at=400)  # all checkpoints were removed
    assert shown(tmp_path) == [(5, 7)]


def test_a_clock_that_was_set_back_between_two_starts_hides_no_step(tmp_path):
    one_start(tmp_path, 0, {5: 1.0, 10: 2.0}, at=200)
    one_start(tmp_path, 11, {15: 3.0}, at=100)
    assert sorted(shown(tmp_path)) == [(5, 1), (10, 2), (15, 3)]


def test_views_are_shown_side_by_side_with_a_white_line_between(tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, size=(2, 9, 6, 5, 3)).astype(np.float32)
    board = TensorBoard(tmp_path)
    board.log_views(first, second, step=0)
    board.close()
    ((_, (width, height, *pictures)),) = events(tmp_path)["views"]
    assert (int(width), int(height), len(pictures)) == (11, 6, 8)
    for index, picture in enumerate(pictures):
        shown = tf.io.decode_png(picture).numpy().astype(int)
        expected = np.concatenate([first[index], np.full((6, 1, 3), 255), second[index]], axis=1)
        assert np.abs(shown - expected).max() <= 1


def test_histograms_count_every_value(tmp_path):
    board = TensorBoard(tmp_path)
    board.log_histograms({"distribution": np.linspace(0, 1, 60).reshape(20, 3), "label_weights": np.ones(5)}, step=7)
    board.close()
    found = events(tmp_path)
    for tag, count, low, high in (("distribution", 60, 0, 1), ("label_weights", 5, 1, 1)):
        ((step, bins),) = found[tag]
        assert step == 7
        assert bins[:, 2].sum() == count
        assert bins[0, 0] <= low
        assert bins[-1, 1] >= high


def test_the_bar_tells_epoch_losses_and_speed(capsys):
    with ProgressBar(total_steps=30, first_step=10, epochs=3) as bar:
        bar.advance(10)
        bar.show(2, {"epoch": 2, "loss": 1.23456, "val_loss": 0.5, "learning_rate": 9.0, "samples_per_second": 1234.5})
        bar.advance(10)
        bar.show(3, {"loss": 0.75, "samples_per_second": None})
    last = capsys.readouterr().err.splitlines()[-1]
    assert "epoch 3/3" in last
    assert "30/30" in last
    assert "loss=0.750" in last


def test_what_is_not_measured_in_every_epoch_stays_in_the_bar(capsys):
    with ProgressBar(total_steps=20, first_step=0, epochs=2) as bar:
        bar.advance(10)
        bar.show(1, {"loss": 2.0, "knn_mAP": 0.625})
        bar.advance(10)
        bar.show(2, {"loss": 1.0})
    last = capsys.readouterr().err.splitlines()[-1]
    assert "loss=1.000" in last
    assert "knn_mAP=0.625" in last


def test_on_a_pipe_the_bar_writes_few_lines(capsys):
    with ProgressBar(total_steps=1000, first_step=0, epochs=1000) as bar:
        for epoch in range(1000):
            bar.advance(1)
            bar.show(epoch + 1, {"loss": 1.0, "samples_per_second": 9.0})
    written = capsys.readouterr().err
    assert len(written.replace("\r", "\n").split("\n")) < 6
    assert "samples/s=9" in written

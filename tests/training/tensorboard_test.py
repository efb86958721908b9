import csv
import pathlib

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.projector import projector_config_pb2

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.training.progress_bar import ProgressBar
from mulsupcon_tf.training.tensorboard import THUMBNAIL, TensorBoard, write_projector
from tests.helpers.image_file_sets import as_judged, write_image_files
from tests.helpers.tiny_datasets import tiny_images


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


def config_of(folder):
    """As TensorBoard's own plugin reads it."""
    config = projector_config_pb2.ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    (embedding,) = config.embeddings
    return embedding


def rows_of(folder):
    with (folder / "labels.tsv").open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def vectors(labels, shares=None):
    split = Split(np.zeros((len(labels), 2), np.float32), labels, shares)
    return MultiLabelDataset("npz", "vector", ("sea", "a\tsky"), {"test": split})


def test_embeddings_and_labels_lie_where_the_projector_looks_for_them(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(2100, 3))
    labels = np.zeros((2100, 2), np.uint8)
    labels[0] = 1
    labels[1, 1] = 1
    shares = np.array([[0.3, 0.7], [0, 1]] + [[0, 0]] * 2098, np.float32)
    write_projector(tmp_path / "truth", embeddings, vectors(labels, shares))
    config = config_of(tmp_path / "truth")
    assert (config.tensor_path, config.metadata_path, config.sprite.image_path) == ("embeddings.tsv", "labels.tsv", "")
    written = np.loadtxt(tmp_path / "truth" / "embeddings.tsv", delimiter="\t")
    np.testing.assert_allclose(written, embeddings[:2000], rtol=1e-4)
    rows = rows_of(tmp_path / "truth")
    assert len(rows) == 2001
    assert rows[0] == ["labels", "dominant", "count", "sea", "a\tsky"]
    assert rows[1] == ["sea;a\tsky", "a\tsky", "2", "yes", "yes"]
    assert rows[2:4] == [["a\tsky", "a\tsky", "1", "no", "yes"], ["(none)", "(none)", "0", "no", "no"]]


def test_without_truth_a_sample_is_named_by_its_rarest_label(tmp_path):
    labels = np.array([[1, 1], [0, 1], [0, 0]], np.uint8)
    write_projector(tmp_path, np.zeros((3, 3)), vectors(labels))
    rows = rows_of(tmp_path)
    assert [row[1] for row in rows] == ["rarest", "sea", "a\tsky", "(none)"]


def thumbnails_of(folder):
    sprite = config_of(folder).sprite
    assert list(sprite.single_image_dim) == [THUMBNAIL, THUMBNAIL]
    with Image.open(folder / sprite.image_path) as file:
        sheet = np.asarray(file.convert("RGB"))
    per_row = sheet.shape[1] // THUMBNAIL
    cells = sheet.reshape(-1, THUMBNAIL, per_row, THUMBNAIL, 3).transpose(0, 2, 1, 3, 4)
    return cells.reshape(-1, THUMBNAIL, THUMBNAIL, 3)


def test_image_files_are_shown_as_they_are_judged_row_by_row(tmp_path):
    dataset = write_image_files(tmp_path / "photos")
    write_projector(tmp_path / "board", np.zeros((8, 4)), dataset)
    thumbnails = thumbnails_of(tmp_path / "board")
    assert len(thumbnails) == 9
    for thumbnail, path in zip(thumbnails, dataset.splits["test"].inputs.paths, strict=False):
        expected = as_judged(tmp_path / path, (THUMBNAIL, THUMBNAIL))
        assert np.abs(thumbnail - expected).max() <= 0.51
    assert (thumbnails[8] == 255).all()


def test_images_in_memory_are_shown_too_grey_ones_as_well(tmp_path):
    for shape in ((20, 16, 3), (20, 16, 1)):
        dataset = tiny_images(shape)
        folder = tmp_path / str(shape[-1])
        write_projector(folder, np.zeros((24, 4)), dataset)
        thumbnails = thumbnails_of(folder)
        assert len(thumbnails) == 25
        means = dataset.splits["test"].inputs.mean(axis=(1, 2))  # brightness survives scaling, nearly
        got = thumbnails[:24].mean(axis=(1, 2))
        assert np.corrcoef(got.ravel(), np.broadcast_to(means, got.shape).ravel())[0, 1] > 0.9

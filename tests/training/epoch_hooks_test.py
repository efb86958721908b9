import logging
import pathlib
import types

import keras
import numpy as np
import pytest

from mulsupcon_tf.commands import pretraining
from mulsupcon_tf.commands.outputs import encode, judge_by_neighbours
from mulsupcon_tf.commands.phase import build_pretrainer
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.defaults import resolve_pretraining
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.evaluation.metrics import mean_average_precision
from mulsupcon_tf.evaluation.neighbours import neighbour_scores
from mulsupcon_tf.training.checkpoints import TrainingState
from mulsupcon_tf.training.epoch_hooks import PretrainingWatch, Validation
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.training.tensorboard import TensorBoard
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors, write_npz

REPOSITORY = pathlib.Path(__file__).parents[2]


def settings(data, workdir, **more):
    return PretrainConfig(
        **{
            "dataset": "npz",
            "data_dir": str(data),
            "workdir": str(workdir),
            "epochs": 5,
            "batch_size": 16,
            "queue_size": 40,
            "method": "mulsupcon",
            "checkpoint_every": "1e",
            **more,
        }
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One and the same pretraining, watched in no and in every epoch."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_npz(tiny_vectors(), folder / "data")
    for every in (0, 1):
        pretrain(settings(data, folder / str(every), monitor_every=every))
    return {every: RunDirectory(folder / str(every)) for every in (0, 1)}


def watched(run):
    return {record["epoch"]: record["knn_mAP"] for record in run.epochs() if "knn_mAP" in record}


def test_watching_changes_nothing_in_the_run(runs):
    plain, watched_outputs = (np.load(runs[every].test_outputs) for every in (0, 1))
    for name in plain.files:
        np.testing.assert_array_equal(watched_outputs[name], plain[name])
    for one, other in zip(runs[0].epochs(), runs[1].epochs(), strict=True):
        exact = ("contrastive_loss", "alignment", "uniformity", "embedding_std", "learning_rate", "queue_fill")
        assert {name: one[name] for name in exact} == {name: other[name] for name in exact}


def test_every_epoch_or_none_is_judged(runs):
    assert watched(runs[0]) == {}
    assert list(watched(runs[1])) == [1, 2, 3, 4, 5]
    assert all(0 < value <= 1 for value in watched(runs[1]).values())


@pytest.mark.slow
def test_a_run_that_died_while_it_was_judged_continues_to_the_same_end(runs, tmp_path, monkeypatch):
    config = settings(runs[1].path.parent / "data", tmp_path / "run", monitor_every=1)
    with monkeypatch.context() as patch:
        answers = iter([0.5, 0.5])  # the third look ends the process
        patch.setattr(pretraining, "judge_by_neighbours", lambda *_: next(answers))
        with pytest.raises(StopIteration):
            pretrain(config)
    pretrain(config)
    continued, whole = RunDirectory(config.workdir), runs[1]
    assert watched(continued) == {1: 0.5, 2: 0.5} | {epoch: watched(whole)[epoch] for epoch in (3, 4, 5)}
    for name, array in np.load(whole.test_outputs).items():
        np.testing.assert_array_equal(np.load(continued.test_outputs)[name], array)


def test_a_run_cut_short_is_judged_where_it_ends(runs, tmp_path):
    data = runs[0].path.parent / "data"
    pretrain(settings(data, tmp_path / "run", monitor_every=4, max_steps=6))
    assert list(watched(RunDirectory(tmp_path / "run"))) == [2]


def test_what_is_logged_is_the_map_of_the_query_encoder_on_validation():
    dataset = tiny_images()
    config = resolve_pretraining(
        PretrainConfig(workdir="w", epochs=1, batch_size=16, backbone="resnet8", image_size=20),
        input_shape=dataset.input_shape,
        num_train=64,
    )
    keras.utils.set_random_seed(0)
    model = build_pretrainer(config, dataset, steps_per_epoch=4)
    before = [np.array(variable) for variable in model.variables]
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    scores = neighbour_scores(
        encode(model, dataset, "validation", config)["features"],
        encode(model, dataset, "train", config)["features"],
        train.labels,
    )
    expected = mean_average_precision(validation.labels, scores)
    assert judge_by_neighbours(model, dataset, config) == pytest.approx(expected, abs=1e-9)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.asarray(variable), err_msg=variable.path)


def test_some_rows_of_a_split_are_encoded_as_in_the_whole():
    dataset = tiny_vectors()
    config = resolve_pretraining(
        PretrainConfig(workdir="w", epochs=1, batch_size=16), input_shape=dataset.input_shape, num_train=64
    )
    model = build_pretrainer(config, dataset, steps_per_epoch=4)
    rows = np.array([3, 4, 40])
    some, whole = encode(model, dataset, "train", config, rows), encode(model, dataset, "train", config)
    assert set(some) == {"features", "embedding", "distribution"}
    for name, array in some.items():
        np.testing.assert_allclose(array, whole[name][rows], rtol=1e-5, atol=1e-6)


def record(epoch, **more):
    """Of a loss whose weights of the positives add up to 3, so that it is 12 where all keys look alike."""
    healthy = {"step": epoch * 10, "contrastive_loss": 9.0, "log_num_keys": 4.0, "positives": 3.0, "embedding_std": 0.9}
    return healthy | more


@pytest.fixture
def watch(tmp_path):
    dataset = tiny_vectors()
    config = resolve_pretraining(
        PretrainConfig(workdir="w", epochs=60, batch_size=16), input_shape=dataset.input_shape, num_train=64
    )
    model = build_pretrainer(config, dataset, steps_per_epoch=4)
    train = dataset.splits["train"]
    board = TensorBoard(tmp_path)
    yield PretrainingWatch(
        model, config, board, (train.inputs[:8], train.labels[:8]), last_step=600, judge=lambda: None
    )
    board.close()


def test_the_distributions_are_drawn_and_their_mass_on_the_samples_own_labels(watch):
    logged = []
    watch.tensorboard = types.SimpleNamespace(log_histograms=lambda values, step: logged.append((values, step)))
    watch.config = PretrainConfig(workdir="w", epochs=60, monitor_every=0)
    for epoch in range(1, 7):  # of 60 epochs each third
        watch.epoch_ended(epoch, record(epoch))
    assert [step for _, step in logged] == [30, 60]
    distributions = np.asarray(watch.model(watch.samples)["distribution"])
    values = logged[0][0]
    np.testing.assert_allclose(values["distribution"], distributions, rtol=1e-6)
    expected = [distributions[i, j] for i, j in zip(*np.nonzero(watch.labels), strict=True)]
    np.testing.assert_allclose(values["distribution_of_own_labels"], expected, rtol=1e-6)


def warnings_after(watch, caplog, records):
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        for epoch, each in enumerate(records, start=1):
            assert watch.epoch_ended(epoch, each) is False
    return [entry.getMessage() for entry in caplog.records]


def test_a_loss_that_stands_still_at_ln_k_is_reported_once(watch, caplog):
    records = [record(epoch, contrastive_loss=12.0 + 3e-4 * (epoch % 2)) for epoch in range(1, 12)]
    (warning,) = warnings_after(watch, caplog, records)
    assert "in epoch 6" in warning
    assert "contrastive loss 12.000 (12.000: all keys alike)" in warning
    assert "--bce_weight=1" in warning


def test_a_loss_that_keeps_its_distance_from_that_of_all_keys_alike_is_recognised_by_what_its_positives_add_up_to(
    watch, caplog
):
    """For the recovering methods that changes as distributions move to the shared labels."""
    records = [record(epoch, positives=3.0 + epoch, contrastive_loss=4.0 * (3 + epoch)) for epoch in range(1, 12)]
    (warning,) = warnings_after(watch, caplog, records)
    assert "in epoch 6" in warning
    assert "contrastive loss 36.000 (36.000: all keys alike)" in warning


def test_without_a_positive_there_is_nothing_to_see(watch, caplog):
    assert not warnings_after(
        watch, caplog, [record(epoch, contrastive_loss=0.0, positives=0.0) for epoch in range(1, 12)]
    )


def test_embeddings_in_one_point_are_reported_at_once(watch, caplog):
    (warning,) = warnings_after(watch, caplog, [record(1), record(2, embedding_std=0.01), record(3)])
    assert "in epoch 2" in warning


def test_a_loss_that_moves_near_ln_k_is_healthy(watch, caplog):
    assert not warnings_after(
        watch, caplog, [record(epoch, contrastive_loss=12.0 - 0.009 * epoch) for epoch in range(1, 12)]
    )


def test_the_queue_is_logged_and_no_map_where_validation_has_no_label(watch, caplog):
    watch.config = PretrainConfig(workdir="w", epochs=60, monitor_every=1)
    each = record(1)
    watch.epoch_ended(1, each)
    assert each["queue_fill"] == 0
    assert "knn_mAP" not in each


def test_neighbours_are_asked_when_due_and_at_the_end(watch):
    watch.config = PretrainConfig(workdir="w", epochs=60, monitor_every=4)
    watch.last_step, watch.judge = 100, lambda: 0.25
    records = [record(epoch) for epoch in range(1, 11)]
    for epoch, each in enumerate(records, start=1):
        watch.epoch_ended(epoch, each)
    assert [number for number, each in enumerate(records, start=1) if each.get("knn_mAP") == 0.25] == [4, 8, 10]


def test_the_page_on_monitoring_explains_every_curve(runs, watch):
    page = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
    names = set().union(*runs[1].epochs()) | watch.model.get_metrics_result().keys() | {"bce_loss"}
    assert {"recovery_loss", "leak", "knn_mAP", "data_wait_share"} <= names  # the method of `watch` is cld
    assert not [name for name in sorted(names) if f"`{name}`" not in page]


@pytest.mark.parametrize("by", ["mAP", "loss"])
def test_a_validation_that_is_no_number_is_beaten_by_the_first_that_is_one(by):
    dataset, state = tiny_vectors(), TrainingState()
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(4)])
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    sound = [np.full((10, 4), 1e-4, np.float32), np.zeros(4, np.float32)]
    config = FinetuneConfig(workdir="w", select_by=by, patience=2)
    validation, stops, seen = Validation(model, dataset, config, state), [], []
    for epoch, spoilt in enumerate((True, False, True, True), 1):
        model.set_weights([weight * np.float32(np.nan if spoilt else 1) for weight in sound])
        seen.append({})
        stops.append(validation.epoch_ended(epoch, seen[-1]))
    assert [np.isfinite(record["val_loss"]) for record in seen] == [False, True, False, False]
    assert ["val_mAP" in record for record in seen] == [False, True, False, False]
    assert state.best_epoch == 2 and stops == [False, False, False, True]
    np.testing.assert_array_equal(state.best_weights[0], sound[0])

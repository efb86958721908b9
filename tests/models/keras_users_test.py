"""What users of Keras expect of the two models: it works, or it is refused in one line, and nothing is passed over."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import mulsupcon_tf as m
from mulsupcon_tf.utils.errors import InputError

RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(32, 5)).astype("float32")
LABELS = (SAMPLES[:, :3] > 0).astype("float32")
BATCHES = {"batch_size": 4, "num_views": 2, "augmentation": None, "image_size": None, "seed": 0}


def pretrainer_of(num_labels=3, **settings):
    backbone = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, activation="relu")])
    settings = {"method": "mulsupcon", "queue_size": 16} | settings
    return m.ContrastivePretrainer(backbone, m.build_projection_head(8, 4), num_labels, **settings)


def pretrainer(**compiled):
    keras.utils.set_random_seed(0)
    model = pretrainer_of()
    model.compile("adamw", **compiled)
    return model


def classifier_of(kind=m.MultiLabelClassifier, num_labels=3, **settings):
    return kind(keras.Sequential([keras.Input((5,)), keras.layers.Dense(8)]), num_labels, **settings)


def neighbour_classifier_of(**settings):
    gallery = {"gallery_size": 9, "num_neighbours": 3, "temperature": 0.1, "share": 0.5}
    return classifier_of(m.NeighbourClassifier, **gallery | settings)


def classifier(**compiled):
    keras.utils.set_random_seed(0)
    model = classifier_of()
    model.compile("adamw", m.MultiLabelCrossentropy(), **compiled)
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model = pretrainer()
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=5),
        keras.callbacks.EarlyStopping("val_contrastive_loss", patience=5),
        keras.callbacks.ModelCheckpoint(
            tmp_path_factory.mktemp("best") / "best.keras", "val_loss", save_best_only=True
        ),
        keras.callbacks.ReduceLROnPlateau("contrastive_loss", patience=5),
    ]
    views = (SAMPLES, SAMPLES)
    history = model.fit(views, LABELS, validation_data=(views, LABELS), epochs=3, verbose=0, callbacks=callbacks)
    return model, history.history, callbacks


def test_a_pretraining_takes_arrays_and_its_losses_are_watched_without_a_mode(trained):
    _, history, callbacks = trained
    assert len(history["val_loss"]) == 3
    assert np.isfinite(history["contrastive_loss"]).all()
    assert all(bool(each.monitor_op(1.0, 2.0)) for each in callbacks)
    assert callbacks[1].best == pytest.approx(min(history["val_contrastive_loss"]))


def test_which_way_a_diagnostic_is_better_keras_asks(trained):
    model, views = trained[0], (SAMPLES, SAMPLES)
    stop = keras.callbacks.EarlyStopping("val_uniformity")
    with pytest.raises(ValueError, match="Pass `mode='max'`"):
        model.fit(views, LABELS, validation_data=(views, LABELS), verbose=0, callbacks=[stop])


def test_a_step_on_one_batch_is_a_step_of_fit():
    one, other = pretrainer(), pretrainer()
    loss = one.train_on_batch((SAMPLES, SAMPLES), LABELS, return_dict=True)["loss"]
    data = tf.data.Dataset.from_tensors(((SAMPLES, SAMPLES), LABELS))
    assert loss == pytest.approx(other.fit(data, verbose=0).history["loss"][0], rel=1e-5)
    for ours, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=ours.path)


def test_the_first_number_of_a_list_is_the_loss(trained):
    model, *_ = trained
    assert model.test_on_batch((SAMPLES, SAMPLES), LABELS)[0] == model.get_metrics_result()["loss"] > 0


def test_a_pretrained_model_is_exported_and_saved_with_its_optimizer(trained, tmp_path):
    model, *_ = trained
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(SAMPLES[:5])["embedding"], model(SAMPLES[:5])["embedding"], atol=1e-5)
    model.save(tmp_path / "model.keras")
    twin = keras.models.load_model(tmp_path / "model.keras")
    assert int(twin.optimizer.iterations) == int(model.optimizer.iterations) == 4
    losses = [each.train_on_batch((SAMPLES, SAMPLES), LABELS, return_dict=True)["loss"] for each in (model, twin)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_weights_of_samples_weigh_and_a_metric_stops_without_a_mode():
    weights = np.linspace(0, 2, 32).astype("float32")
    model = classifier()
    logits = model.predict(SAMPLES, verbose=0).astype(np.float64)
    each = (np.logaddexp(0, logits) - LABELS * logits).mean(axis=1)
    assert model.test_on_batch(SAMPLES, LABELS, sample_weight=weights, return_dict=True)["loss"] == pytest.approx(
        (weights * each).mean(), rel=1e-4
    )
    model = classifier(metrics=[m.MeanAveragePrecision(3, from_logits=True), m.MicroF1Score(from_logits=True)])
    stops = [keras.callbacks.EarlyStopping(f"val_{name}", patience=1) for name in ("mAP", "micro_f1")]
    history = model.fit(SAMPLES, LABELS, validation_data=(SAMPLES, LABELS), verbose=0, callbacks=stops).history
    assert 0 < history["val_mAP"][0] <= 1
    assert all(bool(stop.monitor_op(2.0, 1.0)) for stop in stops)


def test_a_linear_probe_freezes_its_backbone_for_itself_alone():
    net = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, kernel_regularizer="l2")])
    probe, tuned = m.MultiLabelClassifier(net, 3, linear_probe=True), m.MultiLabelClassifier(net, 3)
    before = net.get_weights()
    for model in (probe, tuned):
        model.compile(m.KernelSGD(0.5), m.MultiLabelCrossentropy(), run_eagerly=True)
    probe.train_on_batch(SAMPLES, LABELS)
    np.testing.assert_array_equal(net.get_weights()[0], before[0])
    assert [v.path for v in probe.trainable_weights] == [v.path for v in probe.head.weights]
    assert {id(v) for v in [*probe.trainable_variables, *probe.non_trainable_variables]} == {
        id(v) for v in probe.variables
    }
    assert not probe.losses and len(tuned.losses) == 1
    tuned.train_on_batch(SAMPLES, LABELS)
    assert (net.get_weights()[0] != before[0]).any()


@pytest.mark.parametrize("build", [pretrainer, classifier])
def test_a_loss_of_which_bad_steps_have_left_nothing_is_no_number(build):
    model = build(run_eagerly=True)
    spoilt = np.full_like(SAMPLES, np.nan)
    for samples, bad in ((SAMPLES, 0), (spoilt, 2), (np.concatenate([spoilt[:16], SAMPLES[:16]]), 1)):
        views = (samples, samples) if isinstance(model, m.ContrastivePretrainer) else samples
        seen = model.fit(views, LABELS, batch_size=16, shuffle=False, verbose=0).history
        assert seen["bad_steps"] == [bad]
        assert np.isnan(seen["loss"][0]) == (bad == 2)


def unbuilt():
    return keras.Sequential([keras.layers.Dense(4)])


def of_two_inputs():
    inputs = [keras.Input((5,)), keras.Input((5,))]
    return keras.Model(inputs, keras.layers.Add()(inputs))


@pytest.mark.parametrize(
    ("settings", "bad"),
    [({}, 0), ({"method": "self"}, 0), ({"bce_weight": 1.0}, 1), ({"method": "jaccard"}, 1), ({"method": "cld"}, 1)],
)
def test_an_unknown_label_counts_as_absent_where_sharing_is_all_that_is_asked_else_the_step_is_bad(settings, bad):
    labels = LABELS.copy()
    labels[5, 1] = np.nan
    model = pretrainer_of(**settings)
    model.compile("sgd", run_eagerly=True)
    seen = model.train_on_batch((SAMPLES, SAMPLES), labels, return_dict=True)
    assert seen["bad_steps"] == bad
    judged = model.test_on_batch((SAMPLES, SAMPLES), labels, return_dict=True)
    assert np.isnan(seen["loss"]) == np.isnan(judged["loss"]) == bool(bad)


def test_a_pretraining_of_half_precision_goes_on_where_the_policy_is_another_one(tmp_path):
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    model = pretrainer(run_eagerly=True)
    model.train_on_batch((SAMPLES, SAMPLES), LABELS)
    model.save(tmp_path / "half.keras")
    keras.mixed_precision.set_dtype_policy("float32")
    twin = keras.models.load_model(tmp_path / "half.keras")
    assert isinstance(twin.optimizer, keras.optimizers.LossScaleOptimizer)
    for ours, theirs in zip(model.optimizer.variables, twin.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_losses_and_metrics_of_logits_are_taken():
    model = classifier_of()
    for loss in (
        keras.losses.BinaryFocalCrossentropy(from_logits=True),
        functools.partial(keras.losses.binary_crossentropy, from_logits=True),
        lambda truth, logits: keras.ops.mean(keras.ops.square(truth - logits)),
        "squared_hinge",
    ):
        measures = ["acc", keras.metrics.AUC(from_logits=True), m.HammingAccuracy(from_logits=True)]
        model.compile("sgd", loss, metrics=measures, run_eagerly=True)
        assert np.isfinite(model.train_on_batch(SAMPLES, LABELS, return_dict=True)["loss"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pretrainer(loss="mse"), "ContrastivePretrainer has its own loss; .* Received: loss"),
        (lambda: pretrainer(metrics=["mae"]), "takes none and no metrics. Received: metrics"),
        (lambda: pretrainer().fit(SAMPLES, LABELS, verbose=0), "Received: one view"),
        (lambda: pretrainer().fit((SAMPLES, SAMPLES), verbose=0), "Received: 2 views without labels"),
        (
            lambda: pretrainer().fit((SAMPLES, SAMPLES), LABELS, sample_weight=np.ones(32), verbose=0),
            "takes no sample_weight: its loss is of pairs",
        ),
        *(
            (
                lambda labels=labels: pretrainer(run_eagerly=True).train_on_batch((SAMPLES, SAMPLES), labels),
                r"labels must have the shape \[B, 3\]. Received: shape \(32,",
            )
            for labels in (LABELS[:, :1], LABELS[:, 0])
        ),
        (lambda: m.MultiLabelClassifier(unbuilt(), 3), "backbone must be a functional or sequential model"),
        (
            lambda: m.ContrastivePretrainer(unbuilt(), m.build_projection_head(4, 8), 3),
            "backbone must be a functional or sequential model that begins with one keras.Input",
        ),
        (
            lambda: classifier().fit(SAMPLES, LABELS, class_weight={0: 1, 1: 2}),
            "class_weight is of classes that exclude",
        ),
        (
            lambda: classifier().train_on_batch(SAMPLES, LABELS, class_weight={0: 1, 1: 2}),
            "class_weight is of classes that exclude",
        ),
        (
            lambda: classifier().fit(SAMPLES, LABELS, sample_weight=np.ones((32, 3)), verbose=0),
            r"sample_weight must be one number a sample, .* Received: shape \(32, 3\)",
        ),
        (
            lambda: m.MultiLabelClassifier(keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)]), 3),
            r"gives rows \[B, R\]. Received: Sequential .* to \(None, 2, 2, 2\)",
        ),
        (
            lambda: m.MultiLabelClassifier(of_two_inputs(), 3),
            r"one keras.Input .* from \[\(None, 5\), \(None, 5\)\] to",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"loss": "binary_crossentropy"}, "binary_crossentropy"),
        ({"loss": "bce"}, "binary_crossentropy"),
        ({"loss": keras.losses.binary_focal_crossentropy}, "binary_focal_crossentropy"),
        ({"loss": keras.losses.BinaryCrossentropy()}, "binary_crossentropy"),
        ({"metrics": ["acc", "AUC"]}, r"auc\w*"),
        ({"metrics": [m.HammingAccuracy(name="right")]}, "right"),
        ({"weighted_metrics": [["bce"]]}, "binary_crossentropy"),
    ],
)
def test_losses_and_metrics_of_probabilities_are_refused_by_what_gives_logits(given, name):
    model = classifier_of()
    with pytest.raises(InputError, match=f"must have from_logits=True. Received: {name} without"):
        model.compile("adamw", **given)


@pytest.mark.parametrize(
    ("build", "settings", "rule"),
    [
        (pretrainer_of, {"num_labels": 0}, "at least 1"),
        (pretrainer_of, {"queue_size": 0}, "at least 1"),
        (pretrainer_of, {"momentum": 1.5}, "at most 1"),
        (pretrainer_of, {"momentum": -0.1}, "at least 0"),
        (pretrainer_of, {"bce_weight": -1}, "at least 0"),
        (pretrainer_of, {"contrastive_weight": -1}, "at least 0"),
        (classifier_of, {"num_labels": 0}, "at least 1"),
        (classifier_of, {"logit_offset": float("inf")}, "a finite number"),
        (neighbour_classifier_of, {"gallery_size": 0}, "at least 1"),
        (neighbour_classifier_of, {"num_neighbours": 0}, "at least 1"),
        (neighbour_classifier_of, {"num_neighbours": 10}, "at most 9"),
        (neighbour_classifier_of, {"temperature": 0.0}, "above 0"),
        (neighbour_classifier_of, {"share": 1.1}, "at most 1"),
        (neighbour_classifier_of, {"floor": 0.6}, "at most 0.5"),
        (functools.partial(m.build_projection_head, 8), {"embedding_size": 1}, "at least 2"),
        (functools.partial(m.build_projection_head, embedding_size=4), {"num_features": 0}, "at least 1"),
        (m.CLD, {"temperature": float("inf")}, "a finite number"),
        (m.KernelAdamW, {"weight_decay": -1e-4}, "at least 0"),
        (m.KernelAdamW, {"learning_rate": -1e-3}, "at least 0"),
        (m.KernelSGD, {"momentum": 1.5}, "at most 1"),
        (m.LARS, {"trust_coefficient": 0.0}, "above 0"),
        (m.MomentumRamp, {"momentum": 1.5}, "at most 1"),
        (functools.partial(m.warmup_cosine, total_steps=9, warmup_steps=0), {"peak": 0.0}, "above 0"),
        (functools.partial(m.warmup_cosine, 0.1, warmup_steps=0), {"total_steps": 0}, "at least 1"),
        (functools.partial(m.warmup_cosine, 0.1, total_steps=9), {"warmup_steps": -1}, "at least 0"),
        (functools.partial(m.warmup_cosine, 0.1, total_steps=9), {"warmup_steps": 9}, "below total_steps=9"),
        (functools.partial(m.warmup_cosine, 0.1, total_steps=9, warmup_steps=0), {"final_scale": 2.0}, "at most 1"),
        (m.MacroF1Score, {"num_labels": 0}, "at least 1"),
        (m.MeanAveragePrecision, {"num_labels": 0}, "at least 1"),
        (functools.partial(m.load_dataset, "digits"), {"seed": -1}, "at least 0"),
        (functools.partial(m.evaluation_batches, None, image_size=None), {"batch_size": 0}, "at least 1"),
        (functools.partial(m.training_batches, None, **BATCHES), {"batch_size": 0}, "at least 1"),
        (functools.partial(m.training_batches, None, **BATCHES), {"num_views": 0}, "at least 1"),
        (functools.partial(m.training_batches, None, **BATCHES), {"image_size": 0}, "at least 1"),
        (functools.partial(m.training_batches, None, **BATCHES), {"mask_rate": 1.5}, "at most 1"),
    ],
)
def test_a_number_out_of_range_is_refused_in_one_line_by_its_name(build, settings, rule):
    ((name, value),) = settings.items()
    with pytest.raises(InputError) as raised:
        build(**settings)
    assert str(raised.value) == f"{name} must be {rule}. Received: {name}={value}"


def test_other_choices_than_those_there_are_and_thresholds_beyond_probabilities_are_refused():
    with pytest.raises(InputError, match=r"^optimizer must be one of adamw, sgd, lars. Received: optimizer=adam$"):
        m.build_optimizer("adam", 0.1, 0.0)
    for grid, received in (((0.5, 1.5), "0.5, 1.5"), ((), "none")):
        with pytest.raises(InputError, match=rf"^grid must hold thresholds from 0 to 1. Received: {received}$"):
            m.choose_thresholds(LABELS, np.full(LABELS.shape, 0.5), grid=grid)


def test_numbers_at_the_ends_of_their_ranges_are_taken():
    pretrainer_of(queue_size=1, momentum=1.0, bce_weight=0.0, contrastive_weight=0.0)
    pretrainer_of(momentum=m.MomentumRamp(0.0), contrastive_weight=lambda step: 1.0)
    neighbour_classifier_of(num_neighbours=9, share=1.0)
    m.build_optimizer("lars", m.warmup_cosine(0.1, total_steps=1, warmup_steps=0, final_scale=1.0), 0.0)

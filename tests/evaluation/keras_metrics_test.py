import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.evaluation import keras_metrics, metrics
from mulsupcon_tf.evaluation.keras_average_precision import MeanAveragePrecision
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.forking import run_forked

LABELS = 6
REFERENCES = {
    "mAP": metrics.mean_average_precision,
    "precision_at_1": metrics.precision_at_1,
    "macro_f1": lambda y, p: metrics.macro_f1(y, p > 0.4),
    "micro_f1": lambda y, p: metrics.micro_f1(y, p > 0.4),
    "hamming_accuracy": lambda y, p: metrics.hamming_accuracy(y, p > 0.4),
    "example_f1": lambda y, p: metrics.example_f1(y, p > 0.4),
}


def all_metrics(from_logits=False):
    return [
        MeanAveragePrecision(LABELS, num_thresholds=257, from_logits=from_logits),
        keras_metrics.PrecisionAtOne(from_logits=from_logits),
        keras_metrics.MacroF1Score(LABELS, threshold=0.4, from_logits=from_logits),
        keras_metrics.MicroF1Score(threshold=0.4, from_logits=from_logits),
        keras_metrics.HammingAccuracy(threshold=0.4, from_logits=from_logits),
        keras_metrics.ExampleF1Score(threshold=0.4, from_logits=from_logits),
    ]


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def random_batches(seed, samples=90):
    """Labels and logits on the grid of 257 thresholds, 1/8 apart, so that average precision is not rounded; ties abound."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((samples, LABELS)) < 0.3).astype(np.int64)
    truth[:4] = 0
    truth[:, 2] = 0  # a label without positives
    logits = np.round(8 * (rng.normal(-0.5, 1.5, truth.shape) + 1.5 * truth)) / 8
    logits[:2] = -20.0  # an empty prediction for an empty truth; a tie of all labels
    return truth, np.clip(logits, -16, None).astype(np.float32)


@pytest.fixture(params=range(6), ids=list(REFERENCES))
def index(request):
    return request.param


def test_names_are_those_of_the_results():
    assert [metric.name for metric in all_metrics()] == list(REFERENCES)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_several_batches_equal_numpy_on_all_of_them(index, from_logits, mode):
    truth, logits = random_batches(index)
    metric = all_metrics(from_logits)[index]
    update = metric.update_state
    if mode != "eager":
        update = tf.function(update, autograph=False, jit_compile=mode == "xla")
    predictions = logits if from_logits else sigmoid(logits).astype(np.float32)
    for rows in (slice(0, 40), slice(40, 50), slice(50, None)):
        update(tf.constant(truth[rows]), tf.constant(predictions[rows]))
    assert float(metric.result()) == pytest.approx(REFERENCES[metric.name](truth, sigmoid(logits)), abs=2e-6)


def test_the_result_is_zero_before_the_first_batch_and_after_a_reset(index):
    metric = all_metrics()[index]
    assert float(metric.result()) == 0
    truth, logits = random_batches(0)
    metric.update_state(truth, sigmoid(logits))
    assert float(metric.result()) > 0.1
    metric.reset_state()
    assert float(metric.result()) == 0


@pytest.mark.parametrize("column", [False, True])
def test_sample_weights_count_like_repetitions(index, column):
    truth, logits = random_batches(1)
    weights = np.random.default_rng(2).integers(0, 4, len(truth))
    metric = all_metrics(from_logits=True)[index]
    # Tiny weights: nothing may be added to the denominators.
    scaled = 1e-6 * weights.astype(np.float32)
    metric.update_state(truth, logits, sample_weight=scaled[:, None] if column else scaled)
    repeated = np.repeat(np.arange(len(truth)), weights)
    expected = REFERENCES[metric.name](truth[repeated], sigmoid(logits[repeated]))
    assert float(metric.result()) == pytest.approx(expected, abs=1e-5)


def test_half_precision_predictions_are_counted_in_float32(index):
    truth, _ = random_batches(3)
    predictions = np.random.default_rng(3).choice([0.125, 0.25, 0.75, 0.875], truth.shape)
    metric = all_metrics()[index]
    metric.update_state(truth, tf.constant(predictions, tf.float16))
    assert float(metric.result()) == pytest.approx(REFERENCES[metric.name](truth, predictions), abs=2e-6)


@pytest.mark.parametrize(("bad", "from_logits"), [(np.nan, False), (np.nan, True), (1.5, False), (-0.5, False)])
def test_a_bad_prediction_makes_the_result_nan_until_reset(index, bad, from_logits):
    truth, logits = random_batches(4)
    predictions = logits if from_logits else sigmoid(logits)
    broken = predictions.copy()
    broken[5, 2] = bad
    metric = all_metrics(from_logits)[index]
    metric.update_state(truth, broken)
    metric.update_state(truth, predictions)
    assert np.isnan(float(metric.result()))
    metric.reset_state()
    metric.update_state(truth, predictions)
    assert np.isfinite(float(metric.result()))


def test_a_label_that_is_neither_0_nor_1_makes_the_result_nan(index):
    truth, logits = random_batches(4)
    truth[7, 1] = -1
    metric = all_metrics(from_logits=True)[index]
    metric.update_state(truth, logits)
    assert np.isnan(float(metric.result()))


def test_tables_of_different_shapes_are_refused(index):
    metric = all_metrics()[index]
    with pytest.raises(InputError, match="Received: "):
        metric.update_state(np.zeros((4, LABELS)), np.zeros((4, LABELS - 1)))
    with pytest.raises(InputError, match="Received: "):
        metric.update_state(np.zeros(LABELS), np.zeros(LABELS))
    with pytest.raises(InputError, match="Received: "):
        metric.update_state(np.zeros((4, LABELS)), np.zeros((4, LABELS)), sample_weight=np.ones((4, LABELS)))


def test_another_number_of_labels_is_refused():
    for metric in (keras_metrics.MacroF1Score(1), MeanAveragePrecision(1)):
        with pytest.raises(InputError, match=r"y_pred must have num_labels=1 columns\. Received: 6"):
            metric.update_state(np.zeros((4, LABELS)), np.zeros((4, LABELS)))


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 2.0, float("nan")])
@pytest.mark.parametrize(
    "build",
    [
        keras_metrics.MicroF1Score,
        keras_metrics.HammingAccuracy,
        keras_metrics.ExampleF1Score,
        lambda **a: keras_metrics.MacroF1Score(3, **a),
    ],
)
def test_bad_thresholds_are_refused(build, threshold):
    with pytest.raises(InputError, match=r"threshold must be between 0 and 1\. Received: threshold="):
        build(threshold=threshold)


def test_too_few_thresholds_are_refused():
    with pytest.raises(InputError, match=r"num_thresholds must be at least 2\. Received: num_thresholds=1"):
        MeanAveragePrecision(3, num_thresholds=1)


def test_serialisation_round_trip(index):
    metric = all_metrics(from_logits=True)[index]
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()
    assert [variable.shape for variable in copy.variables] == [
        variable.shape for variable in metric.variables
    ]  # thresholds
    truth, logits = random_batches(5)
    assert float(copy(truth, logits)) == pytest.approx(REFERENCES[metric.name](truth, sigmoid(logits)), abs=2e-6)
    assert keras.saving.get_registered_name(type(metric)).startswith("mulsupcon_tf>")


def test_average_precision_that_a_draft_has_saved_is_read():
    config = keras.saving.serialize_keras_object(MeanAveragePrecision(3, num_thresholds=8))
    config["module"] = "mulsupcon_tf.evaluation.keras_metrics"
    config["config"]["bins"] = config["config"].pop("num_thresholds")
    assert keras.saving.deserialize_keras_object(config).num_thresholds == 8


def test_all_state_is_in_variables(index):
    truth, logits = random_batches(6)
    metric, copy = all_metrics(from_logits=True)[index], all_metrics(from_logits=True)[index]
    metric.update_state(truth, logits)
    for source, target in zip(metric.variables, copy.variables, strict=True):
        target.assign(source)
    assert float(copy.result()) == float(metric.result()) > 0


def test_average_precision_is_that_of_the_rounded_scores():
    rng = np.random.default_rng(7)
    truth = rng.random((400, LABELS)) < 0.2
    logits = (rng.normal(-1, 1.5, truth.shape) + 2 * truth).astype(np.float32)
    coarse = MeanAveragePrecision(LABELS, num_thresholds=33, from_logits=True)  # one logit apart
    coarse.update_state(truth, logits)
    rounded = metrics.mean_average_precision(truth, np.round(logits))
    exact = metrics.mean_average_precision(truth, logits)
    assert abs(rounded - exact) > 0.01
    assert float(coarse.result()) == pytest.approx(rounded, abs=1e-5)
    for predictions, from_logits in ((logits, True), (sigmoid(logits), False)):
        fine = MeanAveragePrecision(LABELS, from_logits=from_logits)
        fine.update_state(truth, predictions)
        assert float(fine.result()) == pytest.approx(exact, abs=2e-3)


def test_average_precision_keeps_the_order_of_extreme_scores():
    truth = np.array([[1], [0], [1], [0]])
    certain = np.array([[1.0], [1.0 - 1e-5], [1e-5], [0.0]])
    metric = MeanAveragePrecision(1)
    metric.update_state(truth, certain)
    assert float(metric.result()) == pytest.approx((1 + 2 / 3) / 2, abs=1e-6)


def test_fit_and_evaluate_report_the_numpy_values():
    keras.utils.set_random_seed(8)  # first weights too: how near the grid of mAP comes depends on the scores
    rng = np.random.default_rng(8)
    inputs = rng.normal(size=(70, 5)).astype(np.float32)
    truth = (inputs @ rng.normal(size=(5, LABELS)) > 1).astype(np.float32)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(LABELS, activation="sigmoid")])
    model.compile("sgd", "binary_crossentropy", metrics=all_metrics()[1:])
    history = model.fit(inputs, truth, batch_size=32, validation_data=(inputs, truth), verbose=0).history
    reported = model.evaluate(inputs, truth, batch_size=32, verbose=0, return_dict=True)
    predictions = model.predict(inputs, verbose=0)
    for name in list(REFERENCES)[1:]:
        expected = REFERENCES[name](truth, predictions)
        assert reported[name] == pytest.approx(expected, abs=1e-5)
        assert history[f"val_{name}"][0] == pytest.approx(expected, abs=1e-5)
    average_precision = MeanAveragePrecision(LABELS)
    model.compile(loss="binary_crossentropy", metrics=[average_precision])
    reported = model.evaluate(inputs, truth, batch_size=32, verbose=0, return_dict=True)
    assert reported["mAP"] == pytest.approx(metrics.mean_average_precision(truth, predictions), abs=5e-3)


def test_state_is_summed_over_the_replicas_of_a_mirrored_strategy():
    done = run_forked("tests.helpers.programs.mirrored_metrics")
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr[-2000:]

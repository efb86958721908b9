import pickle

import keras
import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from mulsupcon_tf import ContrastiveMultiLabelClassifier
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.tiny_datasets import tiny_vectors

QUICK = {"epochs": 1, "batch_size": 512, "run_eagerly": True, "random_state": 0}
OF_FLOAT32 = {
    name: "probabilities are float32, whose sums depend in the seventh digit on how many rows are computed together"
    for name in ("check_methods_sample_order_invariance", "check_methods_subset_invariance")
}
TRAIN, TEST = (tiny_vectors(num_features=6).splits[name] for name in ("train", "test"))


def unsuited(estimator):
    """The checks that cannot hold, each with the reason."""
    del estimator
    return OF_FLOAT32


@parametrize_with_checks([ContrastiveMultiLabelClassifier(pretrain_epochs=0, **QUICK)], expected_failed_checks=unsuited)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([ContrastiveMultiLabelClassifier(pretrain_epochs=1, **QUICK)], expected_failed_checks=unsuited)
def test_scikit_learns_own_checks_with_a_pretraining(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def fitted():
    settings = {"pretrain_epochs": 10, "epochs": 40, "batch_size": 16, "learning_rate": 0.01, "random_state": 3}
    return ContrastiveMultiLabelClassifier(**settings).fit(TRAIN.inputs, TRAIN.labels)


def test_labels_are_learnt_and_outputs_are_those_of_the_network(fitted):
    probabilities = fitted.predict_proba(TEST.inputs)
    logits = fitted.model_.predict(TEST.inputs, verbose=0).astype(np.float64)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-5)
    predicted = fitted.predict(TEST.inputs)
    np.testing.assert_array_equal(predicted, (logits > 0).astype(int))
    assert (predicted == TEST.labels).mean() > 0.9
    assert fitted.score(TEST.inputs, TEST.labels) == pytest.approx((predicted == TEST.labels).all(1).mean())
    features = fitted.transform(TEST.inputs)
    np.testing.assert_allclose(features, fitted.model_.backbone.predict(TEST.inputs, verbose=0), atol=1e-5)
    assert len(fitted.get_feature_names_out()) == features.shape[1]


def test_sparse_rows_are_the_same_rows_and_a_pickle_the_same_model(fitted):
    expected = fitted.predict_proba(TEST.inputs)
    np.testing.assert_array_equal(fitted.predict_proba(scipy.sparse.csr_matrix(TEST.inputs)), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(TEST.inputs), expected)
    assert not hasattr(clone(fitted), "model_")


def test_labels_keep_their_names_and_a_seed_its_result():
    names = np.where(TRAIN.labels[:, :2] == 1, "yes", "no")
    estimator = ContrastiveMultiLabelClassifier(method="any", pretrain_epochs=1, **QUICK)
    state = np.random.get_state()[1].copy()
    first = estimator.fit(TRAIN.inputs, names).predict(TEST.inputs)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert set(np.unique(first)) <= {"yes", "no"} and first.shape == (24, 2)
    np.testing.assert_array_equal(estimator.fit(TRAIN.inputs, names).predict(TEST.inputs), first)


@pytest.mark.parametrize("only", [*(pytest.param(only, marks=pytest.mark.slow) for only in (0, 1)), 5])
def test_a_single_class_is_there_with_its_own_probability(only):
    estimator = ContrastiveMultiLabelClassifier(
        pretrain_epochs=0, epochs=40, batch_size=16, learning_rate=0.01, random_state=0
    ).fit(TRAIN.inputs, np.full(len(TRAIN.inputs), only))
    probabilities = estimator.predict_proba(TEST.inputs)
    assert estimator.classes_.tolist() == [only] and probabilities.shape == (24, 1)
    assert probabilities.min() > 0.9 and (estimator.predict(TEST.inputs) == only).all()


def test_it_stands_in_a_pipeline_and_in_a_search():
    pipeline = make_pipeline(StandardScaler(), ContrastiveMultiLabelClassifier(pretrain_epochs=0, **QUICK))
    grid = {"contrastivemultilabelclassifier__loss": ["bce", "zlpr"]}
    search = GridSearchCV(pipeline, grid, cv=2, scoring="average_precision").fit(TRAIN.inputs, TRAIN.labels)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(TEST.inputs).shape == TEST.labels.shape
    assert isinstance(search.best_estimator_[-1].model_, keras.Model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "truth"}, "method must be one of cld, rld, mulsupcon, any, all, jaccard, self"),
        ({"loss": "focal"}, "loss must be one of"),
        ({"epochs": 0}, "epochs must be above 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"mask_rate": 1.0}, "mask_rate must be from 0 to below 1. Received: mask_rate=1.0"),
    ],
)
def test_a_parameter_out_of_range_is_one_line(settings, words):
    with pytest.raises(InputError, match=words) as error:
        ContrastiveMultiLabelClassifier(**settings).fit(TRAIN.inputs, TRAIN.labels)
    assert "\n" not in str(error.value)

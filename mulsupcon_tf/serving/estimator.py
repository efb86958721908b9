"""Contrastive pretraining and classification of vectors as one estimator of scikit-learn."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from mulsupcon_tf.losses.classification import build_loss
from mulsupcon_tf.losses.registry import build_method
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.heads import build_projection_head
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.optimizers.adamw import KernelAdamW
from mulsupcon_tf.utils.choices import DEFAULT_LOSS, LOSSES, METHODS, TEMPERATURE, TRUE_DISTRIBUTION_METHODS
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import require_at_least, require_choice, require_not_negative, require_positive

_ROWS_AT_ONCE = 1024


class ContrastiveMultiLabelClassifier(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator
):
    """A network of vectors, pretrained by a contrastive method and then trained to predict labels.

    `fit(X, y)` takes vectors `[N, F]` (array, data frame or sparse matrix, which is made dense) and labels `[N, C]`, of which
    each column has at most two values, 0 and 1 mostly. Vectors are standardised by their mean and deviation. `predict`
    gives `[N, C]`, `predict_proba` the probabilities `[N, C]` of the second value of each column, `transform` the
    representations r `[N, R]`, `score` the share of samples whose labels are all right. Of a single label `y` may be `[N]`;
    `predict` then gives `[N]`, and `predict_proba` `[N, 2]`, as classifiers of two classes do.

    Args:
        method: contrastive method of the pretraining, one of `--method` but for `truth`.
        pretrain_epochs: passes over the samples in pretraining; 0: none.
        epochs: passes in which the classifier is trained.
        loss: one of `--loss`.
        batch_size: samples of a step, at most N.
        learning_rate: peak of a cosine, in both phases; AdamW.
        weight_decay: decoupled, of kernels alone: see `KernelAdamW`.
        mask_rate: share of the features that a view hides, in both phases; the mean takes their place.
        temperature: τ of the contrastive loss.
        queue_size: keys kept from earlier batches, at most N.
        embedding_size: D.
        threshold: a label is given when its probability is above it.
        run_eagerly: train without a compiled graph: sooner done with little data.
        random_state: seed, or None, or a `numpy.random.RandomState`.

    Attributes:
        model_: the `MultiLabelClassifier`.
        classes_: the values of `y`, one or two: an array for `[N]`, else a list of C arrays.
        n_features_in_: F.
        feature_names_in_: names of the columns of a data frame.

    Raises:
        InputError: in `fit`: a parameter is out of range, or a column of labels has more than two values.
    """

    def __init__(
        self,
        method="mulsupcon",
        *,
        pretrain_epochs=50,
        epochs=50,
        loss=DEFAULT_LOSS,
        batch_size=64,
        learning_rate=1e-3,
        weight_decay=1e-4,
        mask_rate=0.4,
        temperature=TEMPERATURE,
        queue_size=256,
        embedding_size=64,
        threshold=0.5,
        run_eagerly=False,
        random_state=None,
    ):
        self.method, self.pretrain_epochs, self.epochs, self.loss = method, pretrain_epochs, epochs, loss
        self.batch_size, self.learning_rate, self.weight_decay = batch_size, learning_rate, weight_decay
        self.mask_rate, self.temperature, self.queue_size = mask_rate, temperature, queue_size
        self.embedding_size, self.threshold = embedding_size, threshold
        self.run_eagerly, self.random_state = run_eagerly, random_state

    def fit(self, X, y):
        """Trains both phases anew.

        Args:
            X: `[N, F]` finite numbers, at least two rows.
            y: `[N, C]`, or `[N]`.

        Returns:
            The estimator.

        Raises:
            ValueError: a parameter is out of range, a column of labels has more than two values (both `InputError`), or
                `X` and `y` have not as many rows or hold values that are not finite.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, accept_sparse=True, dtype=np.float32, multi_output=True, ensure_min_samples=2)
        X = _dense(X)
        check_classification_targets(y)
        labels = self._encoded(_dense(y))
        mean = X.mean(axis=0, dtype=np.float64).astype(np.float32)
        rng = check_random_state(self.random_state)
        with _seeded(int(rng.randint(2**31))):
            backbone = build_backbone("mlp", (X.shape[1],), train_features=X)
            if self.pretrain_epochs:
                self._pretrain(backbone, X, mean, labels, rng)
            self.model_ = MultiLabelClassifier(backbone, labels.shape[1])
            self.model_.compile(
                self._optimizer(len(X), self.epochs), build_loss(self.loss), run_eagerly=self.run_eagerly
            )
            for rows in self._batches(len(X), self.epochs, rng):
                self.model_.train_on_batch(self._view(X, mean, rows, rng), labels[rows])
        self._n_features_out = backbone.output_shape[-1]
        return self

    def _pretrain(self, backbone, X, mean, labels, rng) -> None:
        pretrainer = ContrastivePretrainer(
            backbone,
            build_projection_head(backbone.output_shape[-1], self.embedding_size),
            labels.shape[1],
            method=build_method(self.method, temperature=self.temperature),
            queue_size=min(self.queue_size, len(X)),
        )
        pretrainer.compile(self._optimizer(len(X), self.pretrain_epochs), run_eagerly=self.run_eagerly)
        for rows in self._batches(len(X), self.pretrain_epochs, rng):
            views = self._view(X, mean, rows, rng), self._view(X, mean, rows, rng)
            pretrainer.train_on_batch(views, labels[rows])

    def _optimizer(self, num_samples: int, epochs: int) -> keras.optimizers.Optimizer:
        steps = epochs * max(1, num_samples // self.batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(self.learning_rate, steps, alpha=0.01)
        return KernelAdamW(schedule, weight_decay=self.weight_decay)

    def _batches(self, num_samples: int, epochs: int, rng) -> Iterator[np.ndarray]:
        """Rows of each batch: those that do not fill one are left out of the epoch, in another order each time."""
        size = min(self.batch_size, num_samples)
        for _ in range(epochs):
            order = rng.permutation(num_samples)
            yield from order[: num_samples // size * size].reshape(-1, size)

    def _view(self, X, mean, rows, rng):
        hidden = rng.uniform(size=(len(rows), X.shape[1])) < self.mask_rate
        return np.where(hidden, mean, X[rows])

    def _encoded(self, y) -> np.ndarray:
        """Labels `[N, C]` as 0 and 1, and the values that they stand for as `classes_`."""
        found = [np.unique(column, return_inverse=True) for column in np.atleast_2d(y.T)]
        values = [each for each, _ in found]
        if max(map(len, values)) > 2:
            raise InputError(
                f"Only binary classification is supported, in each column. The type of the target is {type_of_target(y)}."
            )
        self.classes_ = values[0] if y.ndim == 1 else values
        codes = [places if len(each) > 1 else places + _code_of_only(each) for each, places in found]
        return np.stack(codes, axis=1).astype(np.float32)

    def _outputs(self, X) -> tuple[np.ndarray, np.ndarray]:
        check_is_fitted(self)
        X = _dense(validate_data(self, X, accept_sparse=True, dtype=np.float32, reset=False))
        blocks = [X[first : first + _ROWS_AT_ONCE] for first in range(0, len(X), _ROWS_AT_ONCE)]
        found = [self.model_.embed_and_classify(block) for block in blocks]
        probabilities, features = (
            np.concatenate([np.asarray(each) for each in part]) for part in zip(*found, strict=True)
        )
        return probabilities, features

    def predict_proba(self, X):
        """Probabilities of labels.

        Args:
            X: `[N, F]` finite numbers.

        Returns:
            `[N, C]` float32, of the second value of each column; of `[N]` labels those of all `classes_`, `[N, 2]` mostly.

        Raises:
            ValueError: the table has another number of columns than that of `fit`, or a value that is not finite.
        """
        probabilities = self._outputs(X)[0]
        if isinstance(self.classes_, list):
            return probabilities
        both = np.concatenate([1 - probabilities, probabilities], axis=1)
        return both if len(self.classes_) > 1 else both[:, [_code_of_only(self.classes_)]]

    def predict(self, X):
        """Labels whose probability is above the threshold.

        Args:
            X: `[N, F]` finite numbers.

        Returns:
            Values `[N, C]`, or `[N]`, as `y` had them.

        Raises:
            ValueError: as of `predict_proba`.
        """
        given = (self._outputs(X)[0] > np.float32(self.threshold)).T.astype(int)
        several = isinstance(self.classes_, list)
        classes = self.classes_ if several else [self.classes_]
        values = [each[np.minimum(column, len(each) - 1)] for each, column in zip(classes, given, strict=True)]
        return np.stack(values, axis=1) if several else values[0]

    def transform(self, X):
        """Representations of vectors.

        Args:
            X: `[N, F]` finite numbers.

        Returns:
            r `[N, R]`, float32.

        Raises:
            ValueError: as of `predict_proba`.
        """
        return self._outputs(X)[1]

    def _check_parameters(self) -> None:
        require_choice([name for name in METHODS if name not in TRUE_DISTRIBUTION_METHODS], method=self.method)
        require_choice(tuple(LOSSES), loss=self.loss)
        require_positive(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            temperature=self.temperature,
            queue_size=self.queue_size,
        )
        require_not_negative(pretrain_epochs=self.pretrain_epochs, weight_decay=self.weight_decay)
        require_at_least(2, batch_size=self.batch_size, embedding_size=self.embedding_size)
        for name in ("mask_rate", "threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be from 0 to below 1. Received: {name}={getattr(self, name)}")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        tags.transformer_tags.preserves_dtype = []  # float32 always
        return tags


def _code_of_only(values: np.ndarray) -> int:
    """What stands for the value of a column that has only one: 1 is there for all, anything else for none."""
    return int(values[0] == 1)


def _dense(table: Any) -> np.ndarray:
    return table.toarray() if hasattr(table, "toarray") else np.asarray(table)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Keras draws from the seed inside; the generators of Python and NumPy are afterwards as they were."""
    before = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])

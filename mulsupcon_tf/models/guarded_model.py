"""Training steps that a batch of numbers that are not finite leaves without a trace."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mulsupcon_tf.models.layers import SMALL, PostponedMoves, postponed_moves
from mulsupcon_tf.models.replicas import num_replicas, replica_cond, sum_over_replicas, weight_of_share


class GuardedModel(keras.Model):
    """A model whose step changes nothing if the loss or a gradient is infinite or undefined: a bad step.

    Weights, moments of the optimizer, moving averages, what the forward pass would write (statistics of batch
    normalisation, seeds of dropout) and running means stay as they were; only the counters move. Under float16 the
    loss scale is halved too, as Keras does it. One replica's bad share of a batch makes the step bad on all of them.

    Under float16 gradients also overflow because the loss scale has lifted them. It begins at 2^15 and falls in each bad
    step until they fit, which may take ten steps and more of a sound run. An overflow is a bad step whose loss is finite,
    at a loss scale above 1, the lowest that lifts nothing.

    Args:
        **kwargs: as for `keras.Model`.

    Attributes:
        bad_steps: scalar int64 weight, bad steps so far; the metric of the same name counts those of the epoch.
        bad_steps_in_row: scalar int64 weight, bad steps since the last one that was good or an overflow.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        counter = {"shape": (), "dtype": "int64", "initializer": "zeros", "trainable": False}
        self.bad_steps = self.add_weight(name="bad_steps", **counter)
        self.bad_steps_in_row = self.add_weight(name="bad_steps_in_row", **counter)
        self._bad_steps_of_epoch = _Counter(name="bad_steps")

    @property
    def written_by_forward_pass(self) -> list[keras.Variable]:
        """The variables that the forward pass of a training step may change."""
        return [variable for layer in self.layers for variable in layer.non_trainable_variables]

    def export(self, filepath, format="tf_saved_model", *, input_signature=None, **kwargs):
        """Writes what `call` gives for any number of samples as `keras.Model.export` does, before the first call too.

        Args:
            filepath: as of `keras.Model.export`.
            format: as of `keras.Model.export`.
            input_signature: None: float32 samples `[None, ...]`.
            **kwargs: as of `keras.Model.export`.
        """
        if input_signature is None:
            input_signature = [keras.InputSpec(dtype="float32", shape=(None, *self.backbone.input_shape[1:]))]
        super().export(filepath, format, input_signature=input_signature, **kwargs)

    def compile_from_config(self, config) -> None:
        """What loading a saved model calls: Keras leaves a model with its own `compile` as it is."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """As Keras' own, but NaN for losses of which bad steps have left nothing: their mean would be 0, better than any other.

        Returns:
            The running means of the epoch by name, scalars float32.
        """
        results, metrics = super().get_metrics_result(), self.metrics
        if metrics and hasattr(metrics[0], "count"):  # the mean of the losses: a subclass may have metrics of its own
            # An overflow says nothing of the losses, and leaves no row of bad steps.
            nothing = (metrics[0].count == 0.0) & (self.bad_steps_in_row > 0)
            for name in (name for name in results if name.endswith("loss")):
                results[name] = tf.where(nothing, tf.cast(float("nan"), results[name].dtype), results[name])
        return results

    def train_step(self, data):
        """One step of Keras's own training, guarded.

        Args:
            data: `(samples, labels)` or `(samples, labels, sample_weight)`, as `fit` reads them.

        Returns:
            The metrics of the epoch by name, scalars float32.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        before = self.read_forward_state()
        size = tf.shape(keras.tree.flatten(x)[0])[0]
        with postponed_moves() as moves, tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight, training=True) * weight_of_share(size)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        loss = sum_over_replicas(loss)
        judged = (x, y, y_pred, sample_weight)
        self.finish_step(before, gradients, [loss], self._update_means, (loss, size, judged), moves=moves)
        return self.get_metrics_result()

    def _update_means(self, loss, size, judged) -> None:
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=size)
        self.compute_metrics(*judged)

    def read_forward_state(self) -> list[tf.Tensor]:
        """The values of `written_by_forward_pass`, to be put back after a bad step."""
        return [tf.convert_to_tensor(variable.value) for variable in self.written_by_forward_pass]

    def write_forward_state(self, values: Sequence[tf.Tensor]) -> None:
        """Puts values of `written_by_forward_pass` back."""
        self._put_back(values, still_as_before=set())

    def _put_back(self, values: Sequence[tf.Tensor], still_as_before: set[int]) -> None:
        for variable, value in zip(self.written_by_forward_pass, values, strict=True):
            if id(variable) not in still_as_before:
                variable.assign(value)

    def finish_step(
        self,
        before: Sequence[tf.Tensor],
        gradients: Sequence[tf.Tensor | None],
        others: Sequence[tf.Tensor],
        then: Callable[..., None],
        args: tuple[Any, ...],
        *,
        moves: PostponedMoves,
    ) -> None:
        """Makes the moves, applies the gradients and calls `then(*args)`; or undoes the forward pass.

        Args:
            before: `read_forward_state` from before the forward pass.
            gradients: of `trainable_variables`, not yet summed over the replicas.
            others: what else must be finite.
            then: must reach this replica's tensors through its arguments only.
            args: structures of tensors.
            moves: of statistics, which the forward pass has left to this.
        """
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        finite = tf.stack([_all_finite(gradients), _all_finite(others)])
        bad = sum_over_replicas(1.0 - tf.cast(finite, tf.float32))
        overflow = (bad[1] == 0.0) & (self._loss_scale() > 1.0)
        replica_cond(
            tf.reduce_sum(bad) == 0.0,
            functools.partial(self._good_step, then, moves),
            functools.partial(self._bad_step, moves),
            (_Outcome(before, list(gradients), args, overflow, moves.values),),
        )

    def _loss_scale(self) -> tf.Tensor | float:
        """What the loss is multiplied by before its gradient is taken."""
        optimizer = self.optimizer
        return optimizer.dynamic_scale.value if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else 1.0

    def _good_step(self, then: Callable[..., None], moves: PostponedMoves, outcome: "_Outcome") -> None:
        moves.make(outcome.statistics)
        self._apply(outcome.gradients)
        self.bad_steps_in_row.assign(0)
        then(*outcome.args)

    def _apply(self, gradients) -> None:
        """A step of the optimizer with gradients that are known to be finite."""
        optimizer, variables = self.optimizer, self.trainable_variables
        if num_replicas() > 1 or not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return
        # What the optimizer of float16 does itself, which first looks at each gradient, and then makes the host wait twice.
        scale, grown = optimizer.dynamic_scale.value, optimizer.step_counter.value + 1
        unscaled = [None if each is None else tf.convert_to_tensor(each) / scale for each in gradients]
        optimizer.inner_optimizer.apply(unscaled, variables)
        grows = grown == optimizer.dynamic_growth_steps
        optimizer.dynamic_scale.assign(tf.where(grows, scale * 2.0, scale))
        optimizer.step_counter.assign(tf.where(grows, tf.zeros_like(grown), grown))

    def _bad_step(self, moves: PostponedMoves, outcome: "_Outcome") -> None:
        self._put_back(outcome.before, moves.still_as_before())
        self.bad_steps.assign_add(1)
        in_row = self.bad_steps_in_row.value + 1
        self.bad_steps_in_row.assign(tf.where(outcome.overflow, tf.zeros((), tf.int64), in_row))
        self._bad_steps_of_epoch.update_state()
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            self.optimizer.step_counter.assign(0)
            self.optimizer.dynamic_scale.assign(self.optimizer.dynamic_scale * 0.5)


class _Outcome(NamedTuple):
    """The tensors that the end of a step needs.

    Attributes:
        before: `GuardedModel.read_forward_state` from before the forward pass.
        gradients: of the trainable variables.
        args: of what follows a good step.
        overflow: whether a bad step is an overflow, scalar bool.
        statistics: `PostponedMoves.values`.
    """

    before: Sequence[tf.Tensor]
    gradients: Sequence[tf.Tensor | None]
    args: tuple[Any, ...]
    overflow: tf.Tensor
    statistics: Sequence[tuple[tf.Tensor, tf.Tensor]]


class _Counter(keras.metrics.Metric):
    """Counts what happens on all replicas at once."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = self.add_variable(shape=(), initializer="zeros", aggregation="mean", name="count")

    def update_state(self) -> None:
        self.count.assign_add(1.0)

    def result(self):
        return tf.convert_to_tensor(self.count.value)


class RunningMeans(keras.metrics.Metric):
    """Means of several numbers over the steps, kept in one vector; each has the name that it is given.

    Args:
        names: of the numbers, the loss first.
    """

    def __init__(self, names: Sequence[str]):
        super().__init__(name=names[0])  # which so is the first where Keras gives a list of numbers: "loss"
        self.names = tuple(names)
        self.totals = self.add_variable(shape=(len(self.names),), initializer="zeros", name="totals")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    @property
    def losses_among_them(self) -> list[str]:
        """Those of the names that are names of losses."""
        return [name for name in self.names if name.endswith("loss")]

    def update_state(self, values: Mapping[str, tf.Tensor]) -> None:
        """Counts the numbers of a step, scalars float32 by name."""
        self.totals.assign_add(tf.stack([values[name] for name in self.names]))
        self.count.assign_add(1.0)

    def result(self) -> dict[str, tf.Tensor]:
        """The means by name; 0 before the first step."""
        means = tf.math.divide_no_nan(self.totals.value, self.count.value)
        return dict(zip(self.names, tf.unstack(means, num=len(self.names)), strict=True))


def _all_finite(tensors: Sequence[tf.Tensor | tf.IndexedSlices | None]) -> tf.Tensor:
    """Scalar bool. A sum is finite only if every term is, and takes one pass over the memory and no copy.

    Small tensors are put together first: to begin an operation takes longer than to add up a few numbers, on a GPU above all.
    """
    values = [each.values if isinstance(each, tf.IndexedSlices) else each for each in tensors if each is not None]
    values = [tf.cast(each, tf.float32) for each in values]
    small: list[tf.Tensor] = []
    large: list[tf.Tensor] = []
    for each in values:
        size = each.shape.num_elements()  # None where it is known only while running
        (large if size is None or size > SMALL else small).append(each)
    if small:
        large.append(tf.concat([tf.reshape(each, [-1]) for each in small], axis=0))
    return tf.reduce_all(tf.math.is_finite(tf.stack([tf.reduce_sum(each) for each in large])))

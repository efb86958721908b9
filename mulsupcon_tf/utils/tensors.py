"""What the tensor functions of this package ask of their arguments: agreeing shapes, and one floating dtype."""

import math
from collections.abc import Collection
from typing import Any

from keras import backend, ops

from mulsupcon_tf.utils.errors import InputError


def float_tensors(**arguments: tuple[Any, str]) -> list[Any]:
    """Casts arguments to the dtype that is computed in, after a check of their shapes.

    That dtype is float64 when the first argument is float64, else float32: half precision loses the differences that a
    softmax at τ = 0.01 lives on.

    Args:
        **arguments: name -> (tensor, letters), such as `keys=(keys, "KD")`. A letter stands for the same size wherever
            it occurs; sizes that are unknown while tracing are not compared. A tensor may be None, but not the first.

    Returns:
        The tensors in the order of the arguments, None where None came in.

    Raises:
        InputError: a tensor has the wrong rank, or two disagree on a size.
    """
    tensors: dict[str, Any] = {
        name: None if value is None else ops.convert_to_tensor(value) for name, (value, _letters) in arguments.items()
    }
    sizes: dict[str, tuple[int, str]] = {}
    for name, (_value, letters) in arguments.items():
        tensor = tensors[name]
        if tensor is None or getattr(tensor.shape, "rank", 0) is None:
            continue
        shape = tuple(tensor.shape)
        if len(shape) != len(letters):
            raise InputError(f"{name} must have the shape [{', '.join(letters)}]. Received: shape={shape}")
        for letter, size in zip(letters, shape, strict=True):
            if size is None:
                continue
            known, owner = sizes.setdefault(letter, (size, name))
            if size != known:
                raise InputError(
                    f"{name} [{', '.join(letters)}] and {owner} must agree on {letter}. "
                    f"Received: {letter}={size} in {name}, {letter}={known} in {owner}"
                )
    lead = next(iter(tensors.values()))
    dtype = "float64" if backend.standardize_dtype(lead.dtype) == "float64" else "float32"
    return [None if tensor is None else ops.cast(tensor, dtype) for tensor in tensors.values()]


def require_positive(**numbers: float) -> None:
    """Raises `InputError` for the first number that is not above 0, or not finite."""
    for name, number in numbers.items():
        if not number > 0:
            raise InputError(f"{name} must be above 0. Received: {name}={number}")
    require_finite(**numbers)


def require_not_negative(**numbers: float) -> None:
    """Raises `InputError` for the first number that is below 0, or not finite."""
    require_at_least(0, **numbers)


def require_at_least(minimum: float, **numbers: float) -> None:
    """Raises `InputError` for the first number that is below the minimum, or not finite."""
    for name, number in numbers.items():
        if not number >= minimum:
            raise InputError(f"{name} must be at least {minimum}. Received: {name}={number}")
    require_finite(**numbers)


def require_within(minimum: float, maximum: float, **numbers: float) -> None:
    """Raises `InputError` for the first number that is below the minimum or above the maximum."""
    require_at_least(minimum, **numbers)
    for name, number in numbers.items():
        if number > maximum:
            raise InputError(f"{name} must be at most {maximum}. Received: {name}={number}")


def require_finite(**numbers: float) -> None:
    """Raises `InputError` for the first number that is infinite or none at all."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise InputError(f"{name} must be a finite number. Received: {name}={number}")


def require_choice(allowed: Collection[Any], **choices: Any) -> None:
    """Raises `InputError` for the first choice that is not among those allowed."""
    for name, choice in choices.items():
        if choice not in allowed:
            raise InputError(f"{name} must be one of {', '.join(allowed)}. Received: {name}={choice}")


def labels_of_neighbours(similarities, nearest, labels, temperature: float):
    """The labels of neighbours, each by its share: Σ_p a_ip y_pj, a_i = softmax_p(cos(i, p) / τ).

    Args:
        similarities: `[N, k]` cosines of the k neighbours of each sample.
        nearest: `[N, k]` their rows.
        labels: `[M, C]` of all rows, float32.
        temperature: τ > 0.

    Returns:
        `[N, C]` float32 in [0, 1].
    """
    shares = softmax(similarities / temperature)
    found = ops.matmul(shares[:, None, :], ops.take(labels, nearest, axis=0))[:, 0]
    return ops.minimum(found, 1.0)  # shares may add up to the next number above 1


def softmax(logits):
    """The softmax over the last axis; over a single entry it is 1, which Keras warns of in words that name nothing."""
    if logits.shape[-1] == 1:
        return ops.exp(ops.log_softmax(logits, axis=-1))
    return ops.softmax(logits, axis=-1)


def within_floor(shares, floor: float):
    """Shares q in [0, 1] as ε + (1 − 2ε) q, in [ε, 1 − ε] and in the same order."""
    return floor + (1.0 - 2.0 * floor) * shares


def unit_rows(rows):
    """Rows `[N, D]` scaled to Euclidean length 1; a row of zeros stays, with a finite gradient."""
    return rows * ops.rsqrt(ops.maximum(ops.sum(ops.square(rows), axis=-1, keepdims=True), 1e-24))

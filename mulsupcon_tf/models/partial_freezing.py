"""Training a part of a backbone: what lies before a layer stays as it is."""

import math
from collections.abc import Iterator

import keras

from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.wording import nearest


def freeze_before(backbone: keras.Model, place: str) -> None:
    """Freezes the layers before a place: their weights are not trained, their normalisation runs in inference mode.

    Layers lie in an order in which each comes after those that it reads, so that no frozen one reads what a trained one gives.

    Args:
        backbone: functional network of images.
        place: name of a layer, the first one that is trained, or "stageK": where the images have been halved K times.

    Raises:
        InputError: the network has no such layer or stage, or nothing before it or from it on can be trained.
    """
    stages = dict(_stages(backbone))
    first = stages.get(place)
    if first is None:
        names = [layer.name for layer in backbone.layers]
        if place not in names:
            raise InputError(
                f"--unfreeze_from must be {', '.join(stages)} or the name of a layer of the backbone. "
                f"Received: --unfreeze_from={place} (nearest: {nearest(place, [*stages, *names])})"
            )
        first = names.index(place)
    before, after = ([layer.weights for layer in part] for part in (backbone.layers[:first], backbone.layers[first:]))
    if not any(before) or not any(after):
        raise InputError(
            "--unfreeze_from must leave weights before it, and from it on. "
            f"Received: --unfreeze_from={place}, with none {'from it on' if any(before) else 'before it'}"
        )
    for layer in backbone.layers[:first]:
        layer.trainable = False


def _stages(backbone: keras.Model) -> Iterator[tuple[str, int]]:
    """Name of each stage and where in the layers it begins; a stage that a network passes over begins where the next one does."""
    number, halved = 1, math.ceil(backbone.input_shape[1] / 2)
    for place, layer in enumerate(backbone.layers):
        side = _smaller_side(layer)
        while side is not None and side <= halved and halved > 1:
            yield f"stage{number}", place
            number, halved = number + 1, math.ceil(halved / 2)


def _smaller_side(layer: keras.layers.Layer) -> int | None:
    """The height that a layer gives images back with; None where it makes none smaller, as the gates of channels do not."""
    given, back = layer.input, layer.output
    if isinstance(given, list) or len(given.shape) != 4 or len(back.shape) != 4 or back.shape[1] >= given.shape[1]:
        return None
    return back.shape[1]

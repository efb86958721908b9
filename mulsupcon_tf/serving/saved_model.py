"""Export of a classifier as a SavedModel that takes raw input and needs nothing of this package to run."""

import contextlib
import glob
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from mulsupcon_tf.evaluation.thresholds import Thresholds
from mulsupcon_tf.input_pipeline.decoding import covering, decode_as_planned, fitted
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.layers import copy_weights
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError, in_brief
from mulsupcon_tf.utils.file_errors import as_os_error
from mulsupcon_tf.utils.graphs import compiled
from mulsupcon_tf.utils.image_limits import MAX_IMAGE_PIXELS

OUTPUT_NAMES = ("probabilities", "embedding")

_HALF_PRECISION = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")


class ServedClassifier(tf.Module):
    """The classifier behind three signatures.

    `serving_default` takes `image_bytes` `[N]` (encoded JPEG, PNG, GIF, BMP or WebP) or `features` `[N, F]` float32, and
    returns `probabilities` `[N, C]` and `embedding` `[N, R]`, float32. `metadata` takes nothing and returns
    `label_names` `[C]`, `threshold_names` and `thresholds`, as the run's `--threshold` says, one for each metric or, with
    `per_label`, `[4, C]`.
    `http_metadata` returns the same and takes `ignored`, an int32 scalar: TensorFlow Serving refuses to call a
    signature without inputs over HTTP.

    Args:
        model: in float32.
        label_names: C names.
        thresholds: decision threshold by metric name, one or C.
        max_image_pixels: height times width of the largest image that is decoded; a larger one is an error of the call.
    """

    def __init__(
        self,
        model: MultiLabelClassifier,
        label_names: tuple[str, ...],
        thresholds: Thresholds,
        max_image_pixels: int,
    ):
        super().__init__(name="served_classifier")
        # TensorFlow's own variables are tracked, and so stored, once. Tracking the model stores copies of them under
        # other names: Python finds its way back, but TensorFlow Serving's loader leaves those that are used empty.
        self.weights = [variable.value for variable in model.variables]
        self._embed_and_classify = model.embed_and_classify
        self.label_names = tf.constant(list(label_names))
        self.threshold_names = tf.constant(list(thresholds))
        self.thresholds = tf.constant(list(thresholds.values()), tf.float32)
        self.input_shape = tuple(model.backbone.input_shape[1:])
        self._max_image_pixels = max_image_pixels

    def classify_images(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """`[N]` encoded images -> probabilities and embedding."""
        height, width, _ = self.input_shape

        def decode(encoded: tf.Tensor) -> tf.Tensor:
            image, _ = decode_as_planned(encoded, covering((height, width)), self._max_image_pixels)
            return fitted(image, self.input_shape)

        images = tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32)
        return self.classify_features(images)

    def classify_features(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """`[N, ...]` samples -> probabilities and embedding."""
        count = tf.shape(features)[0]
        # Batch normalisation refuses to look at no sample at all: in place of none there is one, which is left out again.
        one = tf.zeros((1, *self.input_shape))
        probabilities, embedding = self._embed_and_classify(tf.cond(count > 0, lambda: features, lambda: one))
        return {"probabilities": probabilities[:count], "embedding": embedding[:count]}

    def metadata(self) -> dict[str, tf.Tensor]:
        """Label names and thresholds."""
        return {"label_names": self.label_names, "threshold_names": self.threshold_names, "thresholds": self.thresholds}

    def http_metadata(self, ignored: tf.Tensor) -> dict[str, tf.Tensor]:
        """Label names and thresholds, whatever the argument."""
        del ignored
        return self.metadata()


def write_saved_model(
    model: MultiLabelClassifier,
    directory: pathlib.Path,
    *,
    label_names: tuple[str, ...],
    thresholds: Thresholds,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> None:
    """Writes the SavedModel beside `directory` and renames it when whole; an older one there is replaced.

    Args:
        model: in float32; see `in_float32`.
        directory: the SavedModel's folder.
        label_names: C names.
        thresholds: decision threshold by metric name, one or C.
        max_image_pixels: height times width of the largest image that the model decodes.
    """
    with whole_folder(directory) as partial:
        save_signatures(
            model, partial, label_names=label_names, thresholds=thresholds, max_image_pixels=max_image_pixels
        )


@contextlib.contextmanager
def whole_folder(directory: pathlib.Path, *, replace: bool = True) -> Iterator[pathlib.Path]:
    """Gives an empty folder beside `directory` for the block to fill; renames it to `directory` when it is whole.

    TensorFlow Serving, which looks for folders named by numbers, never sees one that is half written.

    Args:
        directory: where it will be.
        replace: whether an older folder there is replaced.

    Raises:
        OSError: what TensorFlow says of the file system; `FileExistsError` where nothing may be replaced.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.remove_partial(directory.parent, directory.name)
    with as_os_error(directory), atomic_file.replacing_folder(directory, replace=replace) as partial:
        yield partial


def save_signatures(
    model: MultiLabelClassifier,
    folder: pathlib.Path,
    *,
    label_names: tuple[str, ...],
    thresholds: Thresholds,
    max_image_pixels: int,
) -> None:
    """Writes the SavedModel's files; the arguments are those of `write_saved_model`."""
    served = ServedClassifier(model, label_names, thresholds, max_image_pixels)
    if len(served.input_shape) == 1:
        spec = tf.TensorSpec((None, *served.input_shape), tf.float32, name="features")
        serving = compiled(served.classify_features, input_signature=[spec])
    else:
        serving = compiled(
            served.classify_images, input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")]
        )
    ignored = tf.TensorSpec((), tf.int32, name="ignored")
    signatures = {
        "serving_default": serving.get_concrete_function(),
        "metadata": compiled(served.metadata, input_signature=[]).get_concrete_function(),
        "http_metadata": compiled(served.http_metadata, input_signature=[ignored]).get_concrete_function(),
    }
    tf.saved_model.save(served, str(folder), signatures=signatures)


def in_float32(model: MultiLabelClassifier) -> MultiLabelClassifier:
    """The same classifier, not compiled, with float32 arithmetic on one device, whatever it was trained under.

    Weights are copied; where nothing about the backbone has to change, it is that of `model` itself.
    """
    config = keras.saving.serialize_keras_object(model.backbone)
    changed = _with_float32(config)
    replicated = any(isinstance(variable.value, tf.distribute.DistributedValues) for variable in model.variables)
    backbone = model.backbone
    with float32_policy():
        if replicated or changed != config:
            # As `model.keras` is read. Not all parts of a network are layers: operations have no dtype of their own.
            backbone = keras.saving.deserialize_keras_object(changed)
        twin = MultiLabelClassifier(backbone, model.num_labels, linear_probe=model.linear_probe, name=model.name)
    twin.calibrate(model.logit_temperature, model.logit_offset)
    copy_weights(model, twin)
    return twin


def _with_float32(config: Any) -> Any:
    """What Keras serialised, with float32 in place of half precision wherever a dtype or a policy is named."""
    if isinstance(config, dict):
        return {name: _with_float32(value) for name, value in config.items()}
    if isinstance(config, list):
        return [_with_float32(value) for value in config]
    return "float32" if config in _HALF_PRECISION else config


@contextlib.contextmanager
def float32_policy() -> Iterator[None]:
    """Sets the policy of layers that are made inside and have none of their own."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def load_saved_model(directory: str | pathlib.Path):
    """`tf.saved_model.load`, with one line for a folder that is none.

    Raises:
        InputError: there is no readable SavedModel with the signatures of `ServedClassifier`.
    """
    try:
        with _without_pattern(directory) as path:
            loaded = tf.saved_model.load(path)
        signatures = loaded.signatures
    except Exception as error:  # damage may surface anywhere in TensorFlow's reader
        raise InputError(
            f"--saved_model must be a folder written by export. Received: {directory} ({in_brief(error)})"
        ) from error
    if not {"serving_default", "metadata"} <= set(signatures):
        raise InputError(
            f"--saved_model must have the signatures serving_default and metadata. Received: {directory} with {sorted(signatures)}"
        )
    return loaded


@contextlib.contextmanager
def _without_pattern(directory: str | pathlib.Path) -> Iterator[str]:
    """Gives a path of the folder that TensorFlow does not take for a pattern, as which it would find no weights in `runs [2]`."""
    path = str(directory)
    if not glob.has_magic(path) and "\\" not in path:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mulsupcon_tf-model-") as folder:
        link = pathlib.Path(folder, "model")
        link.symlink_to(pathlib.Path(path).absolute(), target_is_directory=True)
        yield str(link)


def numeric_function(model: MultiLabelClassifier) -> tf.types.experimental.ConcreteFunction:
    """The function of one input, `[N, ...]` float32, to `probabilities` `[N, C]` and `embedding` `[N, R]`, float32.

    The input is `features` `[N, F]`, as the SavedModel takes them, or `images` `[N, H, W, channels]`: pixel values from
    0 to 255, in the size that the network sees. Standardising them is part of the model.
    """
    shape = tuple(model.backbone.input_shape[1:])
    spec = tf.TensorSpec((None, *shape), tf.float32, name="features" if len(shape) == 1 else "images")

    def classify(samples: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(OUTPUT_NAMES, model.embed_and_classify(samples), strict=True))

    return compiled(classify, input_signature=[spec]).get_concrete_function()

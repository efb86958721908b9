"""Export of a classifier as ONNX."""

import json
import logging
import pathlib

from mulsupcon_tf.evaluation.thresholds import Thresholds, as_float32
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving.saved_model import numeric_function
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.private_apis import with_constants

MODEL_FILE = "model.onnx"
OPSET = 18


def save_onnx(
    model: MultiLabelClassifier, folder: pathlib.Path, *, label_names: tuple[str, ...], thresholds: Thresholds
) -> None:
    """Writes `model.onnx`, float32; input and outputs are those of `numeric_function`, N is free.

    Its `metadata_props` hold `label_names` and `thresholds` as JSON texts.

    Args:
        model: in float32.
        folder: exists.
        label_names: C names.
        thresholds: decision threshold by metric name, one or C.

    Raises:
        InputError: tf2onnx is not installed, or it knows no ONNX for an operation of the model.
    """
    try:
        import onnx
        from tf2onnx import optimizer
        from tf2onnx.tfonnx import process_tf_graph
    except ImportError as error:
        raise InputError(
            "--format=onnx needs the extra onnx: pip install '.[onnx]' in the checkout. "
            f"Received: an environment without {error.name}"
        ) from error
    function = numeric_function(model)
    # Freezing here makes constants of what the layers captured, too; tf2onnx would make inputs of it.
    frozen = with_constants(function)
    (given,) = (tensor.name for tensor in frozen.inputs)
    names = dict(zip((tensor.name for tensor in frozen.outputs), sorted(function.structured_outputs), strict=True))
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # it has pages to say about what it cannot convert
    graph = process_tf_graph(
        frozen.graph,
        opset=OPSET,
        input_names=[given],
        output_names=list(names),
        tensors_to_rename={given: given.removesuffix(":0"), **names},
    )
    converted = optimizer.optimize_graph(graph).make_model("mulsupcon_tf")
    unknown = {node.op_type for node in converted.graph.node if not onnx.defs.has(node.op_type, node.domain)}
    if unknown:
        raise InputError(
            "--format=onnx must know all operations of the model; --format=saved_model and litert may. "
            f"Received: a model with {', '.join(sorted(unknown))}"
        )
    texts = {"label_names": list(label_names), "thresholds": as_float32(thresholds)}
    onnx.helper.set_model_props(
        converted, {name: json.dumps(value, ensure_ascii=False) for name, value in texts.items()}
    )
    onnx.checker.check_model(converted)
    (folder / MODEL_FILE).write_bytes(converted.SerializeToString())

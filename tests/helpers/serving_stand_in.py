"""What TensorFlow Serving does with a SavedModel, for machines that cannot run its server.

It loads the highest version in the folder of a model by the tag `serve` into a session, as the C++ loader does, and runs
the tensors that a SignatureDef names: no Python of the model takes part. Over HTTP it follows the server's rules for JSON
(rows and columns, base64, string outputs that end in `_bytes`, no signature without inputs); over gRPC it is a
`PredictionService`.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import json
import re
import threading

import numpy as np
import tensorflow as tf


class RefusedError(Exception):
    """A request that the server answers with an error."""


class Servable:
    """The newest version of a model.

    Args:
        base: folder of the model; its folders that are named by a number are versions, all else is overlooked.
    """

    def __init__(self, base):
        self.version = max(int(path.name) for path in base.iterdir() if path.is_dir() and path.name.isdecimal())
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self.session, ["serve"], str(base / str(self.version)))
        self.signatures = dict(loaded.signature_def)

    def signature(self, name):
        name = name or "serving_default"
        if name not in self.signatures:
            raise RefusedError(f'Serving signature key "{name}" not found.')
        assert self.signatures[name].method_name == "tensorflow/serving/predict"
        return self.signatures[name]

    def predict(self, signature_name, inputs):
        """Outputs by name; every output of the signature is fetched."""
        signature = self.signature(signature_name)
        if set(inputs) != set(signature.inputs):
            raise RefusedError(f"input size does not match signature: {sorted(inputs)} != {sorted(signature.inputs)}")
        names = sorted(signature.outputs)
        feed = {signature.inputs[name].name: value for name, value in inputs.items()}
        try:
            values = self.session.run([signature.outputs[name].name for name in names], feed)
        except (tf.errors.OpError, ValueError) as error:
            raise RefusedError(str(error)) from error
        return dict(zip(names, values, strict=True))

    def predict_json(self, request):
        """The answer to the body of `:predict`."""
        name = request.get("signature_name", "")
        infos = self.signature(name).inputs
        if not infos:
            raise RefusedError(f"Failed to get input map for signature: {name or 'DEFAULT'}")
        if ("instances" in request) == ("inputs" in request):
            raise RefusedError("Missing 'inputs' or 'instances' key")
        by_row = "instances" in request
        given = request["instances"] if by_row else request["inputs"]
        if by_row:
            named = isinstance(given[0], dict) and not _is_base64(given[0])
            columns = {key: [row[key] for row in given] for key in given[0]} if named else {next(iter(infos)): given}
        else:
            named = isinstance(given, dict) and not _is_base64(given)
            columns = given if named else {next(iter(infos)): given}
        inputs = {key: np.array(_decoded(column), _dtype(infos[key])) for key, column in columns.items()}
        outputs = self.predict(name, inputs)
        if by_row:
            if len({len(value) for value in outputs.values()}) > 1:
                raise RefusedError("inconsistent batch size")
            rows = zip(*(_encoded(key, value) for key, value in outputs.items()), strict=True)
            return {"predictions": [dict(zip(outputs, row, strict=True)) for row in rows]}
        return {"outputs": {key: _encoded(key, value) for key, value in outputs.items()}}


def _is_base64(value):
    return isinstance(value, dict) and set(value) == {"b64"}


def _decoded(value):
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return base64.b64decode(value["b64"], validate=True) if _is_base64(value) else value


def _encoded(name, values):
    if values.dtype != object:
        return values.tolist()
    as_bytes = name.endswith("_bytes")
    return [{"b64": base64.b64encode(value).decode()} if as_bytes else value.decode() for value in values]


def _dtype(info):
    dtype = tf.dtypes.as_dtype(info.dtype)
    return object if dtype == tf.string else dtype.as_numpy_dtype


@contextlib.contextmanager
def http_server(servables):
    """Serves on a free port of this machine, which it gives.

    Args:
        servables: `Servable` by name of the model.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            model = servables[re.fullmatch(r"/v1/models/(\w+)", self.path)[1]]
            self.answer(200, {"model_version_status": [{"version": str(model.version), "state": "AVAILABLE"}]})

        def do_POST(self):
            model = servables[re.fullmatch(r"/v1/models/(\w+):predict", self.path)[1]]
            try:
                self.answer(200, model.predict_json(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            except RefusedError as error:
                self.answer(400, {"error": str(error)})

        def answer(self, status, content):
            body = json.dumps(content, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def grpc_server(servables):
    """The same over gRPC; needs the packages grpcio and tensorflow-serving-api."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802 (the service's name)
            model = servables[request.model_spec.name]
            answer = predict_pb2.PredictResponse()
            answer.model_spec.name, answer.model_spec.version.value = request.model_spec.name, model.version
            try:
                inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
                outputs = model.predict(request.model_spec.signature_name, inputs)
            except RefusedError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            for name, value in outputs.items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return answer

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()

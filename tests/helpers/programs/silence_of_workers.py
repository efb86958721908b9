"""Run by `utils/private_apis_test.py` in a process whose TensorFlow has not started: prints how long a worker may be silent."""

from tensorflow.python.eager import context

from mulsupcon_tf.utils.private_apis import set_silence_of_workers

if __name__ == "__main__":
    set_silence_of_workers(2, 77)
    set_silence_of_workers(2, 99)  # which comes too late
    print(context.context().coordination_service.heartbeat_timeout_in_ms)

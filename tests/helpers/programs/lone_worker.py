"""Run by `utils/private_apis_test.py`: worker 0 of two on its own, which sets what worker 1 would. Prints what came of it."""

import time

import tensorflow as tf
from tensorflow.python.eager import context

from mulsupcon_tf.utils.private_apis import leave_workers, set_silence_of_workers, texts_of_workers
from tests.helpers.two_workers import free_ports

if __name__ == "__main__":
    set_silence_of_workers(1, 40)
    cluster = tf.train.ClusterSpec({"worker": [f"localhost:{port}" for port in free_ports(1)]})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, task_type="worker", task_id=0)
    tf.distribute.MultiWorkerMirroredStrategy(resolver)
    for key in ("here/7/1", "left/7/1", "devices/1", "devices read/1", "unread/1"):
        context.context().set_config_key_value(key, "1")
    print(*texts_of_workers("devices", "2", 0, 2, 20))
    try:
        texts_of_workers("unread", "2", 0, 2, 1)  # worker 1 has told its own and not read the others
    except tf.errors.DeadlineExceededError:
        print(-1)
    for number, seconds in ((7, 20), (8, 1)):
        before = time.monotonic()
        leave_workers(number, 0, 2, seconds)
        print(time.monotonic() - before)

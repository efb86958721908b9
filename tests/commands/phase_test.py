import keras
import numpy as np
import pytest

from mulsupcon_tf.commands.phase import method_of, prepare_process, summary_of_run
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.training.checkpoints import TrainingState
from tests.helpers.tiny_datasets import LABEL_NAMES, SIZES, tiny_vectors


@pytest.mark.parametrize(
    ("precision", "policy"), [("none", "float32"), ("bfloat16", "mixed_bfloat16"), ("float16", "mixed_float16")]
)
def test_a_process_has_the_seed_and_the_arithmetic_of_its_settings(precision, policy):
    draws = []
    for seed in (3, 3, 4):
        prepare_process(PretrainConfig(seed=seed, mixed_precision=precision))
        draws.append((np.random.random(), float(keras.random.uniform(()))))
    assert keras.mixed_precision.dtype_policy().name == policy
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("cld", {"alpha": 0.3, "beta": 0.2, "cld_kernel": "negative", "own_distribution": "live"}),
        ("rld", {"alpha": 0.3, "beta": 0.2, "rbf_sigma": 0.5, "temperature": 0.2}),
        ("mulsupcon", {"average": "anchor"}),
        ("jaccard", {"temperature": 0.2}),
    ],
)
def test_a_method_has_its_settings(method, given):
    made = method_of(PretrainConfig(method=method, **given))
    assert {name: getattr(made, name) for name in given} == given


@pytest.mark.parametrize(("timed_steps", "speed"), [(10, 40.0), (0, None)])
def test_a_summary_says_what_was_trained_on_and_how_fast(timed_steps, speed):
    dataset = tiny_vectors()
    state = TrainingState(data="d", epoch=2, step=11, seconds=9.0, timed_seconds=2.0, timed_steps=timed_steps)
    config = PretrainConfig(batch_size=8, backbone="mlp", seed=5)
    said = summary_of_run(config, dataset, state, phase="pretrain", method="cld", input_shape=(10,))
    assert said["samples_per_second"] == speed  # without the step that compiled the graph
    assert (said["epochs"], said["steps"], said["seconds"], said["seed"]) == (2, 11, 9.0, 5)
    assert (said["data_fingerprint"], said["input_shape"], said["label_names"]) == ("d", [10], list(LABEL_NAMES))
    assert said["split_sizes"] == SIZES and "changed_data" not in said
    np.testing.assert_allclose(said["label_frequencies"], dataset.splits["train"].labels.mean(0), atol=1e-6)
    state.changed_data = "other labels"
    changed = summary_of_run(config, dataset, state, phase="pretrain", method="cld", input_shape=(10,))
    assert changed["changed_data"] == "other labels"

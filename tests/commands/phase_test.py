import dataclasses

import keras
import numpy as np
import pytest

from mulsupcon_tf.commands.phase import (
    build_classifier,
    build_pretrainer,
    method_of,
    prepare_process,
    summary_of_run,
)
from mulsupcon_tf.config.defaults import resolve_finetuning, resolve_pretraining
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.losses.classification import balanced_weights
from mulsupcon_tf.losses.label_by_label import AsymmetricLoss
from mulsupcon_tf.optimizers.sgd import LARS, KernelSGD
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


def test_the_other_settings_of_a_pretraining_reach_its_model():
    given = {"queue_size": 33, "embedding_size": 24, "bce_weight": 0.7, "gradient_accumulation_steps": 2}
    config = PretrainConfig(
        batch_size=8,
        epochs=4,
        momentum=0.5,
        momentum_schedule="ramp",
        bce_warmup_epochs=1.5,
        optimizer="sgd",
        learning_rate=0.3,
        weight_decay=0.02,
        **given,
    )
    config = resolve_pretraining(config, input_shape=(10,), num_train=SIZES["train"])
    model = build_pretrainer(config, tiny_vectors(), steps_per_epoch=4)
    got = {
        "queue_size": model.queue.capacity,
        "embedding_size": model.queue.embedding_size,
        "bce_weight": model.bce_weight,
        "gradient_accumulation_steps": model.num_parts,
    }
    assert got == given
    assert [float(model.momentum(step)) for step in (0, 5, 100)] == pytest.approx([0.1, 0.4, 0.5])
    assert [float(model.contrastive_weight(step)) for step in (5, 6)] == [0, 1]
    assert (type(model.optimizer), model.optimizer.kernel_decay) == (KernelSGD, 0.02)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.3)
    plain = build_pretrainer(dataclasses.replace(config, momentum_schedule="constant"), tiny_vectors(), 4)
    assert plain.momentum == 0.5


def test_the_settings_of_a_fine_tuning_reach_its_classifier():
    config = FinetuneConfig(
        optimizer="lars",
        weight_decay=0.02,
        backbone_learning_rate_scale=0.25,
        loss="asl",
        class_weights="balanced",
        linear_probe=True,
        pretrained="a run",
    )
    dataset = tiny_vectors()
    probe = build_classifier(resolve_finetuning(config, input_shape=(10,)), dataset, steps_per_epoch=4)
    assert probe.trainable_variables == probe.head.trainable_variables
    whole = dataclasses.replace(config, linear_probe=False)
    model = build_classifier(resolve_finetuning(whole, input_shape=(10,)), dataset, steps_per_epoch=4)
    assert (type(model.optimizer), model.optimizer.kernel_decay) == (LARS, 0.02)
    rates = [
        {float(model.optimizer.scaled(1.0, variable)) for variable in part.trainable_variables}
        for part in (model.backbone, model.head)
    ]
    assert rates == [{0.25}, {1.0}]
    assert isinstance(model.loss, AsymmetricLoss)
    assert model.loss.weights == balanced_weights(dataset.splits["train"].labels)


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

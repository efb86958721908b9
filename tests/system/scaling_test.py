"""The formulas of docs/scaling.md against real variables, and the numbers on the page against the formulas."""

import re

import keras
import pytest

from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.heads import build_projection_head
from mulsupcon_tf.models.key_queue import BLOCK
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from tests.helpers.binaries import REPOSITORY

PAGE = (REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8")
D = 128
MATRICES = 2  # of [b, S] that `cld` holds at once


def queue_bytes(Q, C):
    return Q * (4 * D + 5 * C)  # labels are bytes


def block_bytes(B, C, N):
    S = B + BLOCK
    return 4 * S * (D + 4 * C) + MATRICES * 4 * (B // N) * S


def gathered_bytes(B, C):
    return 4 * B * (D + 2 * C)


def in_mb(number):
    return f"{number / 1e6:,.1f}" if number < 99.95e6 else f"{number / 1e6:,.0f}"


def rows():
    """The rows of the page's table as the formulas have them."""
    for C in (80, 1000):
        for Q in (8192, 65536):
            for B in (256, 1024, 8192):
                sizes = [
                    queue_bytes(Q, C),
                    *(block_bytes(B, C, N) for N in (1, 8, 64)),
                    gathered_bytes(B, C),
                ]
                yield [f"{C:,}", f"{Q:,}", f"{B:,}", *map(in_mb, sizes)]


def size_of(variables):
    return sum(4 * variable.value.numpy().size for variable in variables)


def test_a_pretrainer_has_the_bytes_of_the_formulas():
    backbone = build_backbone("resnet18", (32, 32, 3))
    head = build_projection_head(backbone.output_shape[-1], D)
    Q, C, R = 512, 80, backbone.output_shape[-1]
    model = ContrastivePretrainer(backbone, head, C, method="cld", queue_size=Q)
    model.compile(optimizer=keras.optimizers.AdamW(1e-3))
    model.optimizer.build(model.trainable_variables)
    P, layer = backbone.count_params() + head.count_params(), C * (R + 1)  # the key side has no layer of distributions
    counters = 3 * 8  # position and fill of the queue, the step; 8 bytes each
    metrics = size_of(model.metrics_variables)
    total = sum(variable.value.numpy().nbytes for variable in model.variables)
    assert total == pytest.approx(4 * (2 * P + layer) + queue_bytes(Q, C) + counters + metrics, abs=300)
    assert size_of(model.optimizer.variables) == pytest.approx(2 * size_of(model.trainable_variables), abs=100)
    assert size_of(model.trainable_variables) == pytest.approx(
        4 * (P + layer), rel=0.002
    )  # without the statistics of normalisation


def test_the_size_of_resnet50_is_the_pages():
    backbone = build_backbone("resnet50", (32, 32, 3))
    P = backbone.count_params() + build_projection_head(backbone.output_shape[-1], D).count_params()
    layers = [layer for layer in backbone._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert f"P = {P / 1e6:.2f} million" in PAGE
    assert f"20 P = {20 * P / 1e6:.0f} MB" in PAGE
    assert f"8 P = {8 * P / 1e6:.0f} MB" in PAGE
    assert f"L = {len(layers) + 1}" in PAGE


def test_the_table_follows_the_formulas():
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if re.match(r"\| (80|1,000) \|", line)
    ]
    assert table == list(rows())

import types

import keras
import pytest

from mulsupcon_tf.models.backbones import build_residual_network
from tools.benchmarks import images as benchmark_images
from tools.benchmarks import precision as benchmark_precision

TINY = benchmark_images.Case("resnet8", 32, 4, queue_size=8, steps=1)


def settings(folder, **others):
    return types.SimpleNamespace(workdir=str(folder), repeats=1, data_dir=None, seeds=0, **others)


def by_name(measurements):
    return {one.name: one for one in measurements}


@pytest.mark.slow
def test_the_section_images_measures_steps_and_whole_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_images, "IMAGES", 64)
    monkeypatch.setattr(benchmark_images, "NUM_LABELS", 10)
    figures = by_name(benchmark_images.measure(settings(tmp_path), cases=(TINY,), run_steps=2))
    rates = [name for name, one in figures.items() if one.unit == "samples/s"]
    assert rates == [
        "resnet8 32 px: the encoders alone",
        "resnet8 32 px: with the optimizer",
        "resnet8 32 px: the training step",
        "resnet8 32 px, JPEGs: whole run",
        "digits: whole run",
    ]
    assert all(one.values[0] > 0 for name, one in figures.items() if name in rates)
    alone, whole = (figures[f"resnet8 32 px: {name}"].values[0] for name in ("the encoders alone", "the training step"))
    share = figures["resnet8 32 px: the training step over the encoders"].values[0]
    assert share == pytest.approx(100 * (alone / whole - 1))
    for name in ("resnet8 32 px, JPEGs", "digits"):
        assert 0 <= figures[f"{name}: waiting for data"].values[0] <= 100


@pytest.mark.slow
def test_the_section_precision_measures_each_precision_and_leaves_float32_behind(tmp_path):
    figures = by_name(benchmark_precision.measure(settings(tmp_path), cases=(TINY,)))
    assert figures["matrix product in bfloat16"].values[0] > 0
    slow, fast = (figures[f"resnet8 32 px: {name}"].values[0] for name in ("float32", "bfloat16"))
    assert figures["resnet8 32 px: bfloat16, over float32"].values[0] == pytest.approx(fast / slow)
    assert 0 < figures["resnet8 32 px: float32, of the matrix product"].values[0] < 150
    assert keras.mixed_precision.dtype_policy().name == "float32"


def test_the_arithmetic_of_a_network_is_that_of_its_convolutions():
    # resnet8 at 32 pixels [places, kernel side, channels in, channels out]: the stem, then two convolutions a stage, and
    # a shortcut where the width or the size changes.
    convolutions = [
        (16, 3, 3, 32), (16, 3, 32, 32), (16, 3, 32, 32),
        (8, 3, 32, 64), (8, 3, 64, 64), (8, 1, 32, 64),
        (4, 3, 64, 128), (4, 3, 128, 128), (4, 1, 64, 128),
    ]  # fmt: skip
    expected = sum(2 * side**2 * kernel**2 * before * after for side, kernel, before, after in convolutions)
    assert benchmark_precision.forward_flops(build_residual_network("resnet8", (32, 32, 3))) == expected

import types

import pytest

from tools.benchmarks import frozen, images


@pytest.mark.slow
def test_the_section_frozen_holds_a_pace_on_features_against_that_of_the_whole_network(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "IMAGES", 200)
    monkeypatch.setattr(images, "NUM_LABELS", 5)
    settings = types.SimpleNamespace(workdir=str(tmp_path), repeats=1)
    figures = {one.name: one for one in frozen.measure(settings, image_size=32, whole_steps=2, epochs=2)}
    whole, on_features, features = (figures[name].values[0] for name in (frozen.WHOLE, frozen.FROZEN, frozen.FEATURES))
    assert 0 < whole < on_features and features > 0
    ratio = figures["an epoch of the whole network, over one on features"].values[0]
    assert ratio == pytest.approx(on_features / whole)

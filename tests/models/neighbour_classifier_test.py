import keras
import numpy as np
import pytest

from mulsupcon_tf.evaluation.calibration import fit_calibration
from mulsupcon_tf.evaluation.neighbour_mixture import mixture_floor
from mulsupcon_tf.models.backbone_weights import Standardisation
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.neighbour_classifier import NeighbourClassifier
from mulsupcon_tf.utils.errors import InputError

RNG = np.random.default_rng(3)
MIXTURE = {"num_neighbours": 4, "temperature": 0.07, "share": 0.3, "floor": 0.04}


def naive_labels_near(queries, gallery, labels, num_neighbours, temperature):
    """Float64 loops over queries and neighbours."""
    result = np.zeros((len(queries), labels.shape[1]))
    for row, query in enumerate(queries.astype(np.float64)):
        cosines = [query @ other / np.sqrt((query @ query) * (other @ other)) for other in gallery.astype(np.float64)]
        nearest = sorted(range(len(cosines)), key=lambda other: -cosines[other])[:num_neighbours]
        weights = [np.exp(cosines[other] / temperature) for other in nearest]
        for other, weight in zip(nearest, weights, strict=True):
            result[row] += weight / sum(weights) * labels[other]
    return result


def models_of(kind):
    """A classifier, one of the same weights with a gallery, the samples of that gallery, and what makes vectors of them."""
    vectors = np.asarray
    if kind == "vectors":
        samples = (5 * RNG.normal(size=(12, 6)) + 2).astype(np.float32)
        backbone = build_backbone("mlp", (6,), standardisation=Standardisation.of(samples))
    else:
        samples = RNG.integers(0, 256, (12, 16, 16, 3)).astype(np.float32)
        backbone = build_backbone("resnet8", (16, 16, 3))
    if kind == "vectors of images":
        below, inputs = keras.Model(backbone.input, backbone.output, name="below"), keras.Input((16, 16, 3))

        def vectors(images):
            return np.asarray(below(images, training=False))

        above = build_backbone("mlp", (128,), standardisation=Standardisation.of(vectors(samples)))
        backbone = keras.Model(inputs, above(below(inputs)), name="whole")
    plain = MultiLabelClassifier(backbone, 3)
    mixed = NeighbourClassifier(backbone, 3, gallery_size=12, **MIXTURE)
    mixed.head.set_weights(plain.head.get_weights())
    features = np.asarray(plain.embed_and_classify(samples)[1])
    labels = RNG.integers(0, 2, (12, 3)).astype(np.float32)
    mixed.fill_gallery(None if kind == "images" else vectors(samples), features, labels)
    return plain, mixed, samples, labels, vectors


@pytest.mark.parametrize("kind", ["vectors", "images", "vectors of images"])
def test_probabilities_are_mixed_as_the_formula_says(kind):
    plain, mixed, samples, labels, vectors = models_of(kind)
    queries = samples[:5] * np.float32(0.9) + 1
    probabilities, features = (np.asarray(part) for part in plain.embed_and_classify(queries))
    known = np.asarray(plain.embed_and_classify(samples)[1])
    near = [naive_labels_near(features, known, labels, 4, 0.07)]
    if kind != "images":
        asked, gallery = vectors(queries).astype(np.float64), vectors(samples).astype(np.float64)
        mean, deviation = gallery.mean(0), np.where(gallery.std(0) > 0, gallery.std(0), 1)
        near.append(naive_labels_near((asked - mean) / deviation, (gallery - mean) / deviation, labels, 4, 0.07))
    got, embedding = mixed.embed_and_classify(queries)
    said = 0.04 + 0.92 * np.mean(near, axis=0)
    np.testing.assert_allclose(got, 0.7 * probabilities + 0.3 * said, atol=1e-5)
    np.testing.assert_array_equal(embedding, features)
    np.testing.assert_array_equal(mixed(queries), plain(queries))  # logits are those of the network


def test_what_is_mixed_is_calibrated_as_a_whole():
    _, mixed, samples, *_ = models_of("vectors")
    before = np.asarray(mixed.embed_and_classify(samples)[0], np.float64)
    mixed.calibrate(1.7, 0.4)
    twin = NeighbourClassifier.from_config(mixed.get_config())
    twin.set_weights(mixed.get_weights())
    expected = 1 / (1 + np.exp(-(np.log(before / (1 - before)) / 1.7 + 0.4)))
    for model in (mixed, twin):
        np.testing.assert_allclose(model.embed_and_classify(samples)[0], expected, atol=1e-6)
    mixed.share, mixed.floor = 1.0, 0.0  # labels of the neighbours alone may be 0 or 1
    mixed.gallery_labels.assign(np.repeat([[0.0, 1.0, 0.0]], 12, axis=0))
    assert np.isfinite(mixed.embed_and_classify(samples)[0]).all()


def test_logits_that_are_no_log_odds_become_so_before_they_are_mixed():
    plain, mixed, samples, *_ = models_of("vectors")
    logits, own = np.asarray(plain(samples), np.float64), np.asarray(plain.embed_and_classify(samples)[0])
    said = np.asarray(mixed.embed_and_classify(samples)[0]) - 0.7 * own
    mixed.calibrate_network(1.7, 0.4)
    twin = NeighbourClassifier.from_config(mixed.get_config())
    twin.set_weights(mixed.get_weights())
    expected = 0.7 / (1 + np.exp(-(logits / 1.7 + 0.4))) + said
    for model in (mixed, twin):
        np.testing.assert_allclose(model.embed_and_classify(samples)[0], expected, atol=1e-6)
        np.testing.assert_array_equal(model(samples), plain(samples))
    with pytest.raises(InputError, match=r"network_temperature must be above 0\. Received: network_temperature=0"):
        mixed.calibrate_network(0)


def test_one_label_that_no_neighbour_carries_does_not_ruin_the_calibration():
    """Of a gallery alone, as the mixture may be: without a floor its log-odds of −87 push the temperature out of all bounds."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(400, 6)).astype(np.float32)
    labels = (samples[:, :3] + 0.1 * rng.normal(size=(400, 3)) > 0.8).astype(np.float32)
    gallery, watched = slice(0, 300), slice(300, 400)
    backbone = build_backbone("mlp", (6,))
    fitted = {}
    for floor in (0.0, mixture_floor(300)):
        settings = {"num_neighbours": 5, "temperature": 0.1, "share": 1.0, "floor": floor}
        mixed = NeighbourClassifier(backbone, 3, gallery_size=300, **settings)
        mixed.fill_gallery(samples[gallery], np.asarray(backbone(samples[gallery])), labels[gallery])
        log_odds = np.asarray(mixed.log_odds(samples[watched])[0])
        surprising = labels[watched].copy()
        surprising[np.unravel_index(log_odds.argmin(), log_odds.shape)] = 1
        fitted[floor] = fit_calibration(surprising, log_odds, with_offset=False).temperature
        if floor:
            naive = naive_labels_near(samples[watched], samples[gallery], labels[gallery], 5, 0.1)
            represented = (np.asarray(backbone(samples[part])) for part in (watched, gallery))
            naive = (naive + naive_labels_near(*represented, labels[gallery], 5, 0.1)) / 2
            naive = (300 * naive + 0.5) / 301
            np.testing.assert_allclose(log_odds, np.log(naive / (1 - naive)), atol=1e-3)
            assert np.abs(log_odds).max() <= np.log(2 * 300 + 1) + 1e-4
    assert fitted[0.0] > 5 or fitted[0.0] == 1.0  # 1 of a fit that found none
    assert 0.5 < fitted[mixture_floor(300)] < 2


def test_a_model_of_before_there_was_a_floor_answers_as_it_did():
    _, mixed, samples, *_ = models_of("vectors")
    config = mixed.get_config()
    for name in ("floor", "network_temperature", "network_offset"):
        del config[name]
    old = NeighbourClassifier.from_config(config)
    old.set_weights(mixed.get_weights())
    mixed.floor = 0.0
    np.testing.assert_array_equal(old.embed_and_classify(samples)[0], mixed.embed_and_classify(samples)[0])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 1.0])
def test_probabilities_never_exceed_1_by_rounding(share):
    """As the shares of hundreds of neighbours that all carry a label may."""
    samples = RNG.normal(size=(300, 6)).astype(np.float32)
    backbone = build_backbone("mlp", (6,))
    mixed = NeighbourClassifier(backbone, 3, gallery_size=300, num_neighbours=200, temperature=0.1, share=share)
    mixed.head.bias.assign([20.0] * 3)
    mixed.fill_gallery(samples, np.asarray(backbone(samples)), np.ones((300, 3), np.float32))
    probabilities = np.asarray(mixed.embed_and_classify(samples)[0])
    assert probabilities.max() <= 1 and probabilities.min() > 1 - 1e-6


@pytest.mark.parametrize("kind", ["vectors", "images", "vectors of images"])
def test_the_gallery_is_saved_with_the_network(kind, tmp_path):
    _, mixed, samples, *_ = models_of(kind)
    mixed.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(loaded.embed_and_classify(samples), mixed.embed_and_classify(samples), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {name: loaded.get_config()[name] for name in MIXTURE} == MIXTURE


def test_the_gallery_is_not_trained():
    _, mixed, samples, labels, _ = models_of("vectors")
    before = [np.asarray(gallery) for gallery in (*mixed.galleries, mixed.gallery_labels)]
    mixed.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    mixed.fit(samples, labels, verbose=0)
    for variable, array in zip((*mixed.galleries, mixed.gallery_labels), before, strict=True):
        assert not variable.trainable
        np.testing.assert_array_equal(variable, array)

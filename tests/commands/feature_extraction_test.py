import numpy as np
import pytest

from mulsupcon_tf.commands import feature_extraction
from mulsupcon_tf.commands.feature_extraction import Extractor
from mulsupcon_tf.models.backbone_weights import save_weights
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.tiny_datasets import IMAGE_SHAPE, tiny_images, tiny_vectors


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    save_weights(build_backbone("resnet8", IMAGE_SHAPE), path)
    return str(path)


@pytest.mark.parametrize("first_row", [0, 5, 16])
def test_blocks_are_what_the_network_gives_from_any_row_on(weights, monkeypatch, first_row):
    monkeypatch.setattr(feature_extraction, "BATCH", 8)
    split = tiny_images(sizes={"train": 21}).splits["train"]
    extractor = Extractor.build("resnet8", weights, tiny_images(), None)
    blocks = list(extractor.blocks(split, "train", first_row=first_row))
    assert {len(block) for block in blocks[:-1]} <= {8}
    network = build_backbone("resnet8", IMAGE_SHAPE, weights=weights)
    expected = network(split.inputs.astype(np.float32), training=False)
    np.testing.assert_allclose(np.concatenate(blocks), expected[first_row:], rtol=1e-4, atol=1e-5)
    assert extractor.encode.experimental_get_tracing_count() == 1  # though the last block is smaller
    assert extractor.num_features == expected.shape[1] and not extractor.backbone.trainable_variables


def test_vectors_have_no_features(weights):
    with pytest.raises(InputError, match=r"--backbone=resnet8 takes images. Received: vectors of --dataset=npz"):
        Extractor.build("resnet8", weights, tiny_vectors(), None)

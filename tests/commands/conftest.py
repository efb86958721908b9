import functools

import keras
import pytest

from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving import served_model
from mulsupcon_tf.serving.saved_model import load_saved_model
from tests.helpers.tiny_datasets import IMAGE_SHAPE, LABEL_NAMES, tiny_vectors


@pytest.fixture(scope="module")
def each_model_is_read_once():
    """Reading one takes seconds, and nothing changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served_model, "load_saved_model", functools.cache(load_saved_model))
        yield


@pytest.fixture(scope="module")
def models():
    """A classifier of the tiny vectors and one of the tiny images, not trained."""
    keras.utils.set_random_seed(0)
    train = tiny_vectors().splits["train"].inputs
    vector = MultiLabelClassifier(build_backbone("mlp", (10,), train_features=train), len(LABEL_NAMES))
    return {"vector": vector, "image": MultiLabelClassifier(build_backbone("resnet8", IMAGE_SHAPE), len(LABEL_NAMES))}

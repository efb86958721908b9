import keras
import pytest

from mulsupcon_tf.losses.mulsupcon import MulSupCon
from mulsupcon_tf.losses.mulsupconld import CLD, RLD, KeysByDistribution
from mulsupcon_tf.losses.positives import (
    ContrastOfPositives,
    OwnKey,
    all_positives,
    any_positives,
    jaccard_positives,
)
from mulsupcon_tf.losses.registry import build_method
from mulsupcon_tf.utils.choices import DISTRIBUTION_METHODS, METHODS, SHARING_METHODS, TRUE_DISTRIBUTION_METHODS
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.own_methods import AlignAndSpread, keys_within


def test_each_name_is_its_method():
    built = {name: build_method(name, temperature=0.3) for name in METHODS}
    assert {name: type(method) for name, method in built.items()} == {
        "cld": CLD,
        "rld": RLD,
        "mulsupcon": MulSupCon,
        "any": ContrastOfPositives,
        "all": ContrastOfPositives,
        "jaccard": ContrastOfPositives,
        "self": OwnKey,
        "truth": KeysByDistribution,
    }
    functions = {name: built[name].positives for name in ("any", "all", "jaccard")}
    assert functions == {"any": any_positives, "all": all_positives, "jaccard": jaccard_positives}
    assert {method.temperature for method in built.values()} == {0.3}


def test_the_defaults_are_the_published_ones_where_the_paper_names_them():
    assert vars(build_method("cld")) == {
        "temperature": 0.1,
        "alpha": 1.0,
        "beta": 1e-3,
        "own_distribution": "constant",
        "cld_kernel": "softmax",
    }
    assert build_method("rld").rbf_sigma == 0.01
    assert build_method("mulsupcon").average == "pair"


def test_settings_reach_the_method():
    recovery = {"temperature": 0.2, "alpha": 0.1, "beta": 0.5, "own_distribution": "live"}
    assert vars(build_method("cld", cld_kernel="negative", **recovery)) == recovery | {"cld_kernel": "negative"}
    assert vars(build_method("rld", rbf_sigma=0.3, **recovery)) == recovery | {"rbf_sigma": 0.3}
    assert build_method("mulsupcon", average="anchor").average == "anchor"


def test_the_lists_of_names_say_what_the_objects_say():
    """The flags read the lists, without TensorFlow."""
    assert {name for name in METHODS if build_method(name).learns_distributions} == set(DISTRIBUTION_METHODS)
    taking = {name for name in METHODS if build_method(name).takes_true_distributions}
    assert taking == set(TRUE_DISTRIBUTION_METHODS)
    assert {name for name in METHODS if build_method(name).takes_unknown_labels} == set(SHARING_METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_survives_saving(name):
    method = build_method(name, temperature=0.3)
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(method))
    assert type(twin) is type(method)
    assert vars(twin) == vars(method)


def test_a_method_of_ones_own_comes_back_as_it_is():
    own = AlignAndSpread(temperature=0.3)
    assert build_method(own) is own
    function = build_method(keys_within, temperature=0.2)
    assert (type(function), function.positives, function.temperature) == (ContrastOfPositives, keys_within, 0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: build_method("cdl"),
            f"method must be one of {', '.join(METHODS)}. Received: method=cdl",
        ),
        (lambda: build_method(None), f"method must be one of {', '.join(METHODS)}. Received: method=None"),
        (lambda: build_method(["cld"]), f"method must be one of {', '.join(METHODS)}. Received: method=['cld']"),
        (lambda: build_method(CLD), "method must be an object, not its class. Received: method=CLD"),
        (
            lambda: build_method(CLD(), temperature=0.5, alpha=0.1),
            "an object must get its settings where it is made. Received: method=CLD with temperature, alpha",
        ),
        (lambda: build_method("cld", alpha=-1), "alpha must be at least 0. Received: alpha=-1"),
        (lambda: build_method(keys_within, temperature=0), "temperature must be above 0. Received: temperature=0"),
    ],
)
def test_a_wrong_method_or_setting_is_one_line(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("method", "setting"),
    [("any", "alpha"), ("cld", "average"), ("rld", "cld_kernel"), ("self", "average"), (keys_within, "alpha")],
)
def test_a_setting_of_another_method_is_refused(method, setting):
    with pytest.raises(
        InputError, match=rf"^a setting must be one of the method\. Received: .* with {setting} \(.*{setting}"
    ):
        build_method(method, **{setting: 1.0})

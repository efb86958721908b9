import pathlib

import pytest

from mulsupcon_tf.training.stored import Content, json_object, misfit
from mulsupcon_tf.utils.errors import InputError


def test_what_is_missing_is_one_line_that_names_the_file():
    content = Content(pathlib.Path("runs/a/flags.txt"), {"seed": "3"})
    assert content == {"seed": "3"} and content["seed"] == "3" and content.get("dataset") is None
    with pytest.raises(InputError) as caught:
        content["dataset"]
    assert str(caught.value) == (
        "flags.txt must be whole, with 'dataset'. Received: runs/a/flags.txt, which has no such entry"
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("dataset", (7, None, ["a"])),
        ("label_names", (7, "sea", [None], {})),
        ("input_shape", (7, ["a"])),
        ("label_frequencies", ("x", [None], ["x"])),
        ("seconds", ("x", [])),
        ("test", (7, "x", [None])),
        ("epochs", ("3", 2.5)),
    ],
)
def test_an_entry_of_another_kind_is_found(name, values):
    right = {"dataset": "a", "label_names": ["a"], "input_shape": [3], "label_frequencies": [0.5, 0], "own": None}
    right |= {"seconds": 3, "test": {}, "epochs": 2}
    assert misfit(right) is None
    for value in values:
        assert misfit(right | {name: value}) == name


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, '{"a": NaN} x'])
def test_what_is_no_object_is_none(text):
    assert json_object(text) is None

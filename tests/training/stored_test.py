import pathlib

import pytest

from mulsupcon_tf.training.stored import Content, json_object
from mulsupcon_tf.utils.errors import InputError


def test_what_is_missing_is_one_line_that_names_the_file():
    content = Content(pathlib.Path("runs/a/flags.txt"), {"seed": "3"})
    assert content == {"seed": "3"} and content["seed"] == "3" and content.get("dataset") is None
    with pytest.raises(InputError) as caught:
        content["dataset"]
    assert str(caught.value) == (
        "flags.txt must be whole, with 'dataset'. Received: runs/a/flags.txt, which has no such entry"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, '{"a": NaN} x'])
def test_what_is_no_object_is_none(text):
    assert json_object(text) is None

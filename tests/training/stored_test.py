import copy
import functools
import pathlib

import pytest

from mulsupcon_tf.training.stored import Content, json_object, misfit_of_summary
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
        ("input_shape", (7, ["a"], [], [3, 3])),
        ("label_frequencies", ("x", [None, 0], ["x", 0], [], [0.5])),
        ("seconds", ("x", [])),
        ("test", (7, "x", [None])),
        ("epochs", ("3", 2.5)),
        ("selected_by", ("x", 7, [])),
        ("details", (7, [])),
        ("details.test", (7, None)),
        ("details.test.average_precision", (7, "x", None, ["x", 1], [0.5], {})),
        ("details.test.labels_without_positives", (7, [2], [-1], ["x"], None)),
        ("details.test.reliability", (7, [7], [[1, 2]], [["x", 1, 2]], None)),
        ("details.test.intervals", (7, {"mAP": [1]}, [], None)),
        ("details.test.chance", (7, {"mAP": [1]}, [], None)),
        ("details.test.samples_without_labels", ("x", None, [])),
        ("recovery.uniform.kl", ("x", [])),
        ("thresholds.macro_f1", ("x", None, [], [0.5], [0.5, "x"], {})),
        ("thresholds.micro_f1", ("x", None, [], [0.5])),
    ],
)
def test_an_entry_of_another_kind_is_found(name, values):
    right = {"dataset": "a", "label_names": ["a", "b"], "input_shape": [3], "label_frequencies": [0.5, 0], "own": None}
    right |= {"seconds": 3, "test": {}, "epochs": 2, "selected_by": "last", "recovery": {"uniform": {"kl": None}}}
    right["details"] = {
        "test": {
            "average_precision": [None, 1],
            "labels_without_positives": [0],
            "samples_without_labels": 3,
            "reliability": [[9, 0.1, 0.2]],
            "intervals": {"mAP": [0.1, 0.2]},
            "chance": {"mAP": [0.1, 0.2]},
        }
    }
    right["thresholds"] = {"macro_f1": 0.5, "micro_f1": [0.5, 0]}
    assert misfit_of_summary(right) is None
    *outer, last = name.split(".")
    for value in values:
        wrong = copy.deepcopy(right)
        functools.reduce(dict.get, outer, wrong)[last] = value
        assert misfit_of_summary(wrong) == name, value


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, '{"a": NaN} x'])
def test_what_is_no_object_is_none(text):
    assert json_object(text) is None

import dataclasses
import inspect
import pathlib
import re

import pytest

import mulsupcon_tf
from tools.docs.api_reference import CONFIGS, reference

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "api.md"
# The public names of the first draft.
FIRST_NAMES = [
    "MultiLabelContrastiveLoss",
    "supervised_contrastive_loss",
    "uniform_label_weights",
    "weighted_contrastive_loss",
    "DistributionHead",
    "alignment_loss",
    "contrastive_similarity_loss",
    "label_weights",
    "rbf_similarity_loss",
    "build_backbone",
    "build_projection_head",
    "ContrastivePretrainer",
    "MultiLabelClassifier",
    "LARS",
    "SGD",
    "AdamW",
    "MomentumRamp",
    "build_optimizer",
    "warmup_cosine",
    "ExampleF1",
    "HammingAccuracy",
    "MacroF1",
    "MeanAveragePrecision",
    "MicroF1",
    "PrecisionAtOne",
    "choose_thresholds",
    "evaluate_splits",
    "judge_retrieval",
    "load_dataset",
    "evaluation_batches",
    "training_batches",
    "InputError",
]


def rows_of_old_names():
    """Names, and arguments as (name, argument), of either column, for each row of the page's last table."""
    table = PAGE.read_text(encoding="utf-8").split("\n## Old names\n")[1]
    for line in re.findall(r"^\| `.*$", table, flags=re.MULTILINE):
        old, new = line.strip("| ").split(" | ")
        yield words_of(old), words_of(new)


def words_of(cell):
    found = re.findall(r"`(\w+)(?:\(([^)]*)\))?`", cell)
    return {
        "names": {name for name, _ in found},
        "arguments": {(name, each) for name, given in found if given for each in given.split(", ")},
    }


def parameters_of(name):
    return set(inspect.signature(getattr(mulsupcon_tf, name)).parameters)


def test_the_page_is_up_to_date():
    """`python -m tools.docs.api_reference` mends it."""
    assert PAGE.read_text(encoding="utf-8") == reference()


def test_every_public_name_that_went_stands_among_the_old_names():
    gone = set(FIRST_NAMES) - set(mulsupcon_tf.__all__)
    assert len(FIRST_NAMES) == 32 and len(gone) > 10
    listed = {name for old, _ in rows_of_old_names() for name in old["names"]}
    assert gone <= listed <= set(FIRST_NAMES)


def test_old_names_are_gone_and_new_ones_there():
    for old, new in rows_of_old_names():
        still = {name for name in old["names"] if hasattr(mulsupcon_tf, name)}
        assert still == {name for name, _ in old["arguments"] if hasattr(mulsupcon_tf, name)}
        for name in still:
            assert not {argument for owner, argument in old["arguments"] if owner == name} & parameters_of(name)
        assert new["names"] <= set(mulsupcon_tf.__all__)
        assert all(argument in parameters_of(name) for name, argument in new["arguments"])
    flags = {field.name for config in CONFIGS.values() for field in dataclasses.fields(config)}
    (*_, (last, _)) = rows_of_old_names()
    assert len(last["arguments"]) == 5 and not {name for _, name in last["arguments"]} & flags


def test_an_old_name_cannot_be_imported():
    with pytest.raises(ImportError, match="AdamW"):
        from mulsupcon_tf import AdamW  # noqa: F401

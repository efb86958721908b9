import copy
import functools
import json
import operator

import pytest

from mulsupcon_tf.commands.exporting import export_run
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.config.flags import FinetuneConfig
from mulsupcon_tf.config.program_flags import ExportConfig
from mulsupcon_tf.serving.model_card import model_card
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.binaries import contents
from tests.helpers.tiny_datasets import LABEL_NAMES, SIZES, tiny_vectors, write_npz


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data = write_npz(tiny_vectors(), folder / "data")
    finetune(FinetuneConfig(dataset="npz", data_dir=str(data), workdir=str(folder / "run"), epochs=2, batch_size=16))
    return folder / "run"


@pytest.fixture
def facts(run):
    return json.loads((run / "summary.json").read_text()), read_flags(run / "flags.txt")


def rows(card):
    """Cells of all table lines by the first cell."""
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in lines}


def test_the_card_repeats_the_numbers_of_the_run_and_of_its_data(facts):
    summary, flags = facts
    table = rows(model_card(summary, flags, "saved_model"))
    for split, size in SIZES.items():
        assert table[split] == [str(size)]
    labels = tiny_vectors().splits["train"].labels
    precisions = summary["details"]["test"]["average_precision"]
    for column, name in enumerate(LABEL_NAMES):
        assert table[name] == [f"{100 * labels[:, column].sum() / 64:.1f}", f"{100 * precisions[column]:.1f}"]
    for name, threshold in summary["thresholds"].items():
        assert table[name] == [f"{100 * summary[split][name]:.1f}" for split in ("val", "test")] + [f"{threshold:g}"]
    assert table["mAP"][-1] == "-"


def test_the_card_names_settings_and_versions_but_no_place_on_the_machine(run, facts):
    summary, flags = facts
    flags["pretrained"] = f"{run.parent}/pre/scene"
    card = model_card(summary | {"method": "rld"}, flags, "saved_model")
    assert "pretrained with `rld`" in card
    assert "--pretrained=scene\n" in card
    assert f"tensorflow {summary['versions']['tensorflow']}" in card
    assert "--learning_rate=" in card
    assert str(run.parent) not in card


def test_nothing_from_the_run_is_markup_in_the_card(facts):
    summary, flags = facts
    hostile = "a`<img src=x>`\n# b"
    card = model_card(summary | dict.fromkeys(("dataset", "backbone", "method"), hostile), flags, "saved_model")
    for what in ("Dataset ", "of the kind that ", "Backbone ", "pretrained with "):
        assert f"{what}`` a`<img src=x>` # b ``" in card  # code, in which nothing else is meant
    assert card.startswith("# ") and "\n# b" not in card


def places(value, place=()):
    """Where the entries of nested objects and lists are, as tuples of names and numbers."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield (*place, name)
        yield from places(part, (*place, name))


def test_an_entry_of_any_other_kind_is_one_line_or_does_not_matter(facts, tmp_path):
    whole, flags = facts
    whole["neighbours"] = {"num_neighbours": 3, "temperature": 0.1, "share": 0.2}
    run = RunDirectory(tmp_path)
    refused = set()
    for place in places(whole):
        for value in (None, 7, "x", [], {}):
            summary = copy.deepcopy(whole)
            functools.reduce(operator.getitem, place[:-1], summary)[place[-1]] = value
            run.summary_file.write_text(json.dumps(summary))
            try:
                assert model_card(run.read_summary(), flags, "saved_model").startswith("# ")
            except InputError as error:
                assert str(run.summary_file) in str(error) and "\n" not in str(error)
                refused.add(place)
    assert {("details", "test", "average_precision"), ("thresholds", "macro_f1"), ("label_names", 0)} < refused


def test_a_run_without_validation_has_a_card_too(facts):
    summary, flags = facts
    del summary["val"]
    card = model_card(summary | {"selected_by": "last"}, flags, "saved_model")
    assert rows(card)["metric"] == ["test, %", "threshold"] and len(rows(card)["mAP"]) == 2
    assert f"the weights of epoch {summary['best_epoch']}, the last." in card


def test_a_run_that_went_on_from_another_says_so_by_its_name(run, facts):
    summary, flags = facts
    flags["init_from"] = f"{run.parent}/first"
    card = model_card(summary | {"epochs_before": 7}, flags, "saved_model")
    assert "going on from the weights of the run `first`. Epochs: 2, after 7 of an earlier run;" in card
    assert "--init_from=first\n" in card and str(run.parent) not in card


def test_data_that_changed_on_the_way_are_reported(facts):
    summary, flags = facts
    assert "changed" not in model_card(summary, flags, "saved_model")
    card = model_card(summary | {"changed_data": "'a_b' for label 2, not 'c'"}, flags, "saved_model")
    assert "The data changed on the way: 'a\\_b' for label 2, not 'c'.\n" in card


def test_weak_points_are_named(facts):
    summary, flags = facts
    details = summary["details"]["test"] | {
        "average_precision": [0.5, 0.25, None, 0.75],
        "labels_without_positives": [2],
        "samples_without_labels": 3,
    }
    summary = summary | {"details": {"test": details}, "label_frequencies": [0.5, 0.0, 0.1, 0.1], "optimistic": True}
    card = model_card(summary, flags, "onnx")
    assert "lowest average precision on test, %: green (25.0), red (50.0), bright (75.0).\n" in card
    assert "no test sample has them: blue.\n" in card
    assert "Never seen in training: green.\n" in card
    assert "3 test samples have no label" in card
    assert "optimistic" in card
    assert rows(card)["blue"] == ["10.0", "-"]


def test_a_run_that_did_not_write_its_sizes_has_a_card_without_them(facts):
    summary, flags = facts
    older = {name: value for name, value in summary.items() if name not in ("split_sizes", "label_frequencies")}
    card = model_card(older, flags, "litert")
    assert "samples |" not in card
    assert "Labels: red, green, blue, bright.\n" in card


def test_a_label_that_looks_like_markup_stays_text(facts):
    summary, flags = facts
    names = ["a|b", "<b>", "_under_", "two\nlines"]
    card = model_card(summary | {"label_names": names}, flags, "saved_model")
    for shown in ("| a\\|b |", "| &lt;b&gt; |", "| \\_under\\_ |", "| two lines |"):
        assert shown in card


@pytest.mark.parametrize("shape", [[10], [20, 16, 3]])
@pytest.mark.parametrize("export_format", ["saved_model", "onnx", "litert"])
def test_the_code_of_each_format_is_python(facts, export_format, shape):
    summary, flags = facts
    card = model_card(summary | {"input_shape": shape}, flags, export_format)
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert ("features" in code) == (shape == [10])


@pytest.mark.parametrize(
    ("export_format", "files"),
    [("saved_model", {"saved_model.pb", "fingerprint.pb"}), ("litert", {"model.tflite", "metadata.json"})],
)
def test_the_card_lies_in_the_folder_of_the_export(run, facts, tmp_path, export_format, files):
    output = tmp_path / "model" / "1"
    export_run(ExportConfig(workdir=str(run), output=str(output), format=export_format))
    there = {path.name for path in output.iterdir() if path.is_file()}
    assert there == files | {"MODEL_CARD.md"}
    assert (output / "MODEL_CARD.md").read_text(encoding="utf-8") == model_card(*facts, export_format)


def test_an_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    before = contents(run)
    monkeypatch.setattr("mulsupcon_tf.commands.exporting.model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_run(ExportConfig(workdir=str(run), output=str(tmp_path / "models" / "1"), format="litert"))
    assert not list((tmp_path / "models").iterdir())
    assert contents(run) == before

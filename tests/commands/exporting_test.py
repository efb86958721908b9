"""The folder of an export; what is in it is tested with its formats, the export of a run in finetuning_test. Quantised ones."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from sklearn.metrics import average_precision_score

from mulsupcon_tf.commands import exporting
from mulsupcon_tf.commands.exporting import export_run
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.config.flags import FinetuneConfig
from mulsupcon_tf.config.program_flags import ExportConfig
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.tiny_datasets import tiny_vectors, write_npz

SUMMARY = {"label_names": ["sea", "sun"], "thresholds": {"macro_f1": 0.5}}


def write(folder, export_format="onnx", **given):
    exporting.write_export(None, folder, export_format, summary=SUMMARY, flags={}, **given)


@pytest.fixture
def calls(monkeypatch):
    """What the writers of all formats and of the card were given; each leaves a file."""
    found = []

    def writer(model, folder, **options):
        found.append(options)
        (folder / "model").touch()

    monkeypatch.setattr(exporting, "_WRITERS", dict.fromkeys(exporting._WRITERS, writer))
    monkeypatch.setattr(exporting, "model_card", lambda summary, flags, export_format: f"a card of {export_format}")
    return found


def test_a_folder_has_the_model_and_its_card_and_a_limit_of_pixels_where_images_are_decoded(calls, tmp_path):
    for export_format in exporting._WRITERS:
        write(tmp_path / export_format, export_format, max_image_pixels=99)
        assert {path.name for path in (tmp_path / export_format).iterdir()} == {"model", "MODEL_CARD.md"}
        assert (tmp_path / export_format / "MODEL_CARD.md").read_text() == f"a card of {export_format}"
    common = {"label_names": ("sea", "sun"), "thresholds": {"macro_f1": 0.5}}
    assert calls == [
        common | ({"max_image_pixels": 99} if name == "saved_model" else {}) for name in exporting._WRITERS
    ]


def test_an_index_of_a_gallery_lies_beside_the_model_and_the_card_says_so(calls, tmp_path, monkeypatch):
    def write_index(folder, gallery, by):
        (folder / "gallery.npz").write_text(f"{gallery} {by}")
        return SimpleNamespace(by="features", files=["a", "b"])

    monkeypatch.setattr(exporting, "write_index_of_model", write_index)
    write(tmp_path / "model", "saved_model", gallery="photos", by="features")
    assert (tmp_path / "model" / "gallery.npz").read_text() == "photos features"
    assert "`gallery.npz`: features of 2 items" in (tmp_path / "model" / "MODEL_CARD.md").read_text()


def test_only_a_saved_model_has_a_gallery():
    with pytest.raises(InputError, match=r"^--gallery belongs to --format=saved_model. Received: --format=onnx$"):
        ExportConfig(gallery="photos", format="onnx")


def test_an_export_that_fails_leaves_nothing(calls, tmp_path, monkeypatch):
    def fail(*_):
        raise InputError("no card. Received: nothing")

    monkeypatch.setattr(exporting, "model_card", fail)
    with pytest.raises(InputError, match="no card"):
        write(tmp_path / "model")
    assert calls and not list(tmp_path.iterdir())


def test_what_is_there_is_not_replaced(calls, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with pytest.raises(FileExistsError):
        write(tmp_path / "model")
    with pytest.raises(InputError, match=r"--output must not exist yet. Received: .*model"):
        exporting.export_run(ExportConfig(workdir=str(tmp_path / "run"), output=str(tmp_path / "model")))
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    data = write_npz(tiny_vectors(), folder / "data")
    summary = finetune(
        FinetuneConfig(dataset="npz", data_dir=str(data), workdir=str(folder / "run"), epochs=3, batch_size=16)
    )
    return str(folder / "run"), summary


@pytest.mark.parametrize(("quantize", "words"), [("float16", "stored in float16"), ("int8", "scaled by 24 samples")])
def test_the_card_says_what_quantisation_costs(tuned, tmp_path, quantize, words):
    run, summary = tuned
    output = tmp_path / "model"
    export_run(ExportConfig(workdir=run, output=str(output), format="litert", quantize=quantize))
    card = (output / "MODEL_CARD.md").read_text(encoding="utf-8").split("## Quantisation")[1]
    before, after = map(float, re.search(r"mAP on test: ([\d.]+) before, in float32; ([\d.]+) after", card).groups())
    test = tiny_vectors().splits["test"]
    given = Interpreter(str(output / "model.tflite")).get_signature_runner()(features=test.inputs)["probabilities"]
    assert words in card
    assert before == pytest.approx(100 * summary["test"]["mAP"], abs=0.051)
    assert after == pytest.approx(100 * np.mean(average_precision_score(test.labels, given, average=None)), abs=0.051)


def test_what_quantisation_costs_is_told_of_changed_data_when_they_are_allowed(tuned, tmp_path):
    run, _ = tuned
    changed = write_npz(tiny_vectors(seed=1), tmp_path / "data")
    settings = {"workdir": run, "output": str(tmp_path / "model"), "format": "litert", "data_dir": str(changed)}
    with pytest.raises(InputError, match="or --allow_changed_data be given"):
        export_run(ExportConfig(**settings, quantize="float16"))
    with pytest.raises(InputError, match=r"^--allow_changed_data belongs to --quantize\. Received: "):
        ExportConfig(workdir=run, output="x", format="litert", allow_changed_data=True)
    export_run(ExportConfig(**settings, quantize="float16", allow_changed_data=True))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text(encoding="utf-8").split("## Quantisation")[1]
    before, after = map(float, re.search(r"mAP on test: ([\d.]+) before, in float32; ([\d.]+) after", card).groups())
    assert before == pytest.approx(after, abs=0.2)  # the same samples
    assert "Both are of data that have changed since the run: " in card


def test_what_does_not_go_together_gets_one_line(tuned, tmp_path, monkeypatch):
    run, _ = tuned
    with pytest.raises(
        InputError, match=r"--quantize belongs to --format=litert\. Received: --quantize=int8 --format=onnx"
    ):
        ExportConfig(workdir=run, output="x", format="onnx", quantize="int8")
    with pytest.raises(InputError, match=r"--max_image_pixels belongs to a model of images\. Received: .* of vectors$"):
        export_run(ExportConfig(workdir=run, output=str(tmp_path / "model"), max_image_pixels=99))
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    config = ExportConfig(workdir=run, output=str(tmp_path / "model"), format="litert", quantize="float16")
    with pytest.raises(InputError, match=r"takes LiteRT: pip install '\.\[litert\]'.* none installed$"):
        export_run(config)
    assert not (tmp_path / "model").exists()

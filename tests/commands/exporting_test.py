"""The folder of an export; what is in it is tested with its formats, the export of a run in finetuning_test."""

import pytest

from mulsupcon_tf.commands import exporting
from mulsupcon_tf.config.program_flags import ExportConfig
from mulsupcon_tf.utils.errors import InputError

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

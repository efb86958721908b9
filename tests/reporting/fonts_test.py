import io
import logging

import numpy as np
import PIL.Image
import pytest

from mulsupcon_tf.reporting import document, figures, fonts
from tests.helpers.hand_made_runs import SIZES, write_run
from tests.helpers.tiny_datasets import tiny_vectors, write_npz


def test_letters_that_no_font_has_are_found():
    assert fonts.families()[0] == "DejaVu Sans"
    assert fonts.letters_without_font(["sea", "Übergröße", "\U0001f987 bat", "море"]) == ["\U0001f987"]


@pytest.mark.filterwarnings("error")
def test_a_figure_with_such_a_letter_is_drawn_without_a_warning_of_its_own():
    settings = {"probabilities": np.float32([0.5]), "threshold": None, "truth": None, "recovered": None}
    png = figures.example_bars(["\U0001f987"], np.ones(1, bool), **settings)
    assert PIL.Image.open(io.BytesIO(png)).format == "PNG"


def test_a_report_says_once_which_letters_are_boxes(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(document, "build_document", lambda inputs: "")
    dataset = tiny_vectors(sizes=SIZES)
    names = ("\U0001f987", "b", "c", "\U0001f987 d")
    data = write_npz(type(dataset)("npz", "vector", names, dataset.splits), tmp_path / "data")
    run = write_run(tmp_path / "run", data_dir=data, phase="finetune", method="bce")
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        document.write_report([run], tmp_path / "page.html")
    assert [message for message in caplog.messages if "\U0001f987;" in message and "no font here has" in message]
    assert sum("no font here" in message for message in caplog.messages) == 1

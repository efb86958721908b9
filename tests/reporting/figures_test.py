"""What a reader could not read on a figure; that they have the right numbers is held by the tests of the report."""

import numpy as np
import pytest

from mulsupcon_tf.reporting import figures


@pytest.fixture
def drawn(monkeypatch):
    """The figures themselves, laid out, in place of their pictures."""

    def laid_out(figure):
        figure.canvas.draw()
        return figure

    monkeypatch.setattr(figures, "_png", laid_out)


def bars(names):
    shares = np.full(len(names), 1 / len(names))
    given = {"probabilities": shares, "threshold": 0.5, "truth": None, "recovered": None}
    return figures.example_bars(names, np.ones(len(names), bool), **given)


@pytest.mark.parametrize("names", ["abc", ("skateboard", "car", "bus"), ("a label of many words indeed", "b")])
def test_the_axis_of_bars_holds_its_name_however_long_those_of_labels_are(drawn, names):
    figure = bars(names)
    (axes,) = figure.axes
    written, panel = axes.yaxis.label.get_window_extent(), axes.get_window_extent()
    assert written.y0 >= 0 and written.y1 <= figure.bbox.height
    assert panel.height > written.height


def test_an_axis_of_powers_of_ten_has_plain_numbers(drawn):
    names = [str(number) for number in range(30)]
    figure = figures.average_precision_by_frequency(np.geomspace(0.001, 0.9, 30), {"run": [0.5] * 30}, names)
    shown = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert {"0.1", "1", "10", "100"} <= set(shown)


def test_no_name_of_a_label_lies_over_the_axis(drawn):
    figure = figures.average_precision_by_frequency(
        np.array([0.08, 0.2, 0.35]), {"run": [0.5, 0.6, 0.7]}, ("skateboard", "car", "chair")
    )
    (axes,) = figure.axes
    assert all(axes.get_window_extent().x0 < text.get_window_extent().x0 for text in axes.texts)

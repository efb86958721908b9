"""Pages that `report` writes, read back, and the sections that they are to have."""

from mulsupcon_tf.reporting.document import write_report
from tests.helpers.html_page import Page

ALL_SECTIONS = [
    "opening",
    "results",
    "reliability",
    "recovery",
    "gallery",
    "neighbours",
    "map",
    "labels",
    "training",
    "settings",
]
OF_A_CLASSIFIER = [name for name in ALL_SECTIONS if name != "recovery"]


def report_of(tmp_path, *runs):
    """The page on these run directories."""
    return Page(write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8"))

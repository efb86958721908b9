import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers.scripts import run_script
from tools.docs.method_figures import FIGURES, vanishes_below

DOCS = pathlib.Path(__file__).parents[3] / "docs"


def test_the_page_shows_the_figures_that_the_tool_draws():
    assert {path.name for path in (DOCS / "method").iterdir()} == set(FIGURES)
    page = (DOCS / "method.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(method/([\w.]+)\)", page)) == set(FIGURES)


def test_the_tool_draws_them_all(tmp_path):
    done = run_script("tools.docs.method_figures", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    for name in FIGURES:
        with Image.open(tmp_path / name) as new, Image.open(DOCS / "method" / name) as old:
            assert new.size == old.size
            assert np.asarray(new.convert("L")).std() > 5


@pytest.mark.parametrize("sigma", [0.003, 0.01, 0.05])
def test_below_the_limit_the_kernel_is_exactly_zero_in_float32_and_above_it_is_not(sigma):
    limit = vanishes_below(sigma)
    below, above = (np.exp(np.float32((limit - 1 + side * 0.001 * sigma) / sigma**2)) for side in (-1, 1))
    assert below == 0 < above


def test_at_the_papers_width_the_kernel_sees_near_keys_only():
    assert vanishes_below(0.01) == pytest.approx(0.9896, abs=5e-5)
    assert vanishes_below(1.0) == -1

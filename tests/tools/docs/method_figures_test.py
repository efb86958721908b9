import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers.scripts import run_script
from tools.docs.method_figures import FIGURES, KEYS, WIDTH, effective_keys

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


def test_keys_that_count_go_from_one_to_all():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(KEYS + 1, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = ((rows[1:] - rows[0]) ** 2).sum(axis=1)
    shares = np.exp(-distances / (2 * 0.3**2))
    shares /= shares.sum()
    assert effective_keys(0.3) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
    assert effective_keys(0.01) == pytest.approx(1, abs=1e-6)
    assert effective_keys(10) == pytest.approx(KEYS, rel=1e-3)

import pathlib

from tools.docs.api_reference import reference

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "api.md"


def test_the_page_is_up_to_date():
    """`python -m tools.docs.api_reference` mends it."""
    assert PAGE.read_text(encoding="utf-8") == reference()

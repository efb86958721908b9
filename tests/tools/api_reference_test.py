import pathlib

from api_reference import reference

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "api.md"


def test_the_page_is_up_to_date():
    """`python tools/api_reference.py` mends it."""
    assert PAGE.read_text(encoding="utf-8") == reference()

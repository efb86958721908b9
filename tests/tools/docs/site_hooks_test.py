import types

import pytest

from tools.docs.site_hooks import on_page_content, on_post_page, with_links_of_the_site


@pytest.mark.parametrize(
    ("folder", "text", "expected"),
    [
        ("docs/", "[a](method.md#x)", "[a](method.md#x)"),
        ("docs/", "![a](method/x.png)", "![a](method/x.png)"),
        ("docs/", "[a](../BUILD.md#x)", "[a](BUILD.md#x)"),
        ("docs/", "see [`a`](../mulsupcon_tf/a.py).", "see `a`."),
        ("docs/", "`[a](../mulsupcon_tf/a.py)`", "`[a](../mulsupcon_tf/a.py)`"),
        ("docs/", "```\n[a](../mulsupcon_tf/a.py)\n```", "```\n[a](../mulsupcon_tf/a.py)\n```"),
        ("", "[a](docs/method.md) [b](BUILD.md) [c](setup.py)", "[a](method.md) [b](BUILD.md) c"),
        ("", "[a](#here) [b](https://arxiv.org/abs/1)", "[a](#here) [b](https://arxiv.org/abs/1)"),
    ],
)
def test_links_lead_within_the_site_or_become_text(folder, text, expected):
    assert with_links_of_the_site(text, folder) == expected


@pytest.mark.parametrize(("url", "source"), [("method.html", "assets/"), ("deep/method.html", "../assets/")])
def test_only_pages_with_equations_get_mathjax(url, source):
    page = types.SimpleNamespace(url=url)
    without = "<html><head></head><body>none</body></html>"
    assert on_post_page(without, page=page) == without
    content = on_post_page(without.replace("none", '<div class="arithmatex">x</div>'), page=page)
    head = content.split("</head>")[0]
    assert f'src="{source}tex-svg.js"' in head and r'["\\(", "\\)"]' in head


def test_flags_are_kept_whole():
    content = "<code>--data_dir=DIR</code> <code>a --b</code>"
    assert on_page_content(content) == '<code class="flag">--data_dir=DIR</code> <code>a --b</code>'

"""What mkdocs is taught for the site of docs/ (`make docs`): pages of the top folder, links to source files, equations.

The pages are written for GitHub, which needs none of this. GitHub draws equations by MathJax, and so does the site, by one
file of a package that is copied into it: nothing is fetched when a page is read.
"""

import importlib.util
import pathlib
import posixpath
import re
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TOP_PAGES = ("BUILD.md", "CHANGELOG.md", "CONTRIBUTING.md")
MATHJAX = "assets/tex-svg.js"
STYLE = "assets/site.css"  # mkdocs.yml names it
_EQUATION = 'class="arithmatex"'  # what pymdownx.arithmatex writes
_MATHJAX_SETTINGS = r"""window.MathJax = {
  tex: {inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]]},
  options: {ignoreHtmlClass: ".*", processHtmlClass: "arithmatex"},
};"""
# Code in which a link is only text, or a link, whose text may hold code.
_CODE_OR_LINK = re.compile(r"```.*?```|(!?)\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s]+)\)|`[^`\n]*`", re.DOTALL)


def on_files(files: Any, *, config: Any) -> Any:
    """Adds the pages of the top folder, MathJax and the style to the site."""
    from mkdocs.structure.files import File

    for name in TOP_PAGES:
        files.append(File.generated(config, name, content=(REPOSITORY / name).read_text(encoding="utf-8")))
    package = importlib.util.find_spec("mathjax")
    assert package and package.submodule_search_locations, "pip install django-static-mathjax"
    path = pathlib.Path(package.submodule_search_locations[0]) / "static" / "mathjax" / "es5" / "tex-svg.js"
    files.append(File.generated(config, MATHJAX, abs_src_path=str(path)))
    files.append(File.generated(config, STYLE, abs_src_path=str(REPOSITORY / "tools" / "docs" / "site.css")))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turns what only GitHub understands into what mkdocs does."""
    folder = "" if page.file.src_uri in TOP_PAGES else "docs/"
    return with_links_of_the_site(markdown, folder).replace("<details>", '<details markdown="1">')


def on_page_content(content: str, **_: Any) -> str:
    """Marks flags in running text, which the style keeps whole: a browser would break a line after `--`."""
    return re.sub(r"<code>(--[\w=.]{1,32})</code>", r'<code class="flag">\1</code>', content)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Adds MathJax to a page that has equations."""
    if _EQUATION not in output:
        return output
    source = posixpath.relpath(MATHJAX, posixpath.dirname(page.url) or ".")
    scripts = f'<script>{_MATHJAX_SETTINGS}</script><script defer src="{source}"></script>'
    return output.replace("</head>", f"{scripts}</head>", 1)


def with_links_of_the_site(markdown: str, folder: str) -> str:
    """Links between docs/ and the top folder lead to the site's pages; those to other files become plain text.

    Args:
        markdown: of a page.
        folder: where the page lies in the repository: "docs/", or "" for the top folder.
    """

    def replaced(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if target is None or target.startswith("#") or re.match(r"[a-z]+:", target):
            return match[0]
        path, mark, anchor = target.partition("#")
        place = posixpath.normpath(folder + path)
        if place.startswith("docs/") or place in TOP_PAGES:
            return f"{picture}[{text}]({place.removeprefix('docs/')}{mark}{anchor})"
        return text

    return _CODE_OR_LINK.sub(replaced, markdown)

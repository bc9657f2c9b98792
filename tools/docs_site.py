"""Hook of mkdocs.yml: what the site shows beside docs/*.md, and a check of every link that it was built with.

- `commands.md` is written from the commands themselves (Typer), `notebooks/*.md` from examples/*.ipynb.
- Files of the repository that a page links to (results, examples) come along under `repository/`, so that the
  site is whole by itself, wherever it lies.
"""

from __future__ import annotations

import html.parser
import json
import logging
import posixpath
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
LOG = logging.getLogger("mkdocs.hooks.site")
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
FENCE = re.compile(r"(^ *(?:```|~~~).*?^ *(?:```|~~~)[^\n]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
REPOSITORY = "repository/"


# -- pages that are written for the site ------------------------------------------------------------


def commands_page() -> str:
    """Return the reference of all commands in Markdown."""
    import typer.main
    from typer.cli import get_docs_for_click

    from bitskip.cli import app

    command: Any = typer.main.get_command(app)
    context = typer.Context(command, info_name="bitskip")
    text = get_docs_for_click(obj=command, ctx=context, name="bitskip", title="Commands")

    group, lines = command, []
    for line in re.sub(r"\n{3,}", "\n\n", text).splitlines():
        if usage := re.match(r"\$ bitskip ([a-z]+) .*COMMAND", line):
            group = command.commands[usage[1]]
        if listed := re.match(r"\* `([a-z]+)`: ", line):  # Typer cuts these short
            line = f"{listed[0]}{_first(group.commands[listed[1]].help)}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _first(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def notebook_page(path: Path) -> str:
    """Return a notebook in Markdown: its text, its code, and what its cells printed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join("".join(_printed(output)) for output in cell["outputs"]).rstrip()
        if printed:
            parts.append(f"```text\n{printed}\n```")
    parts.append(f"This page is the notebook [{path.name}]({path.name}), which a test runs.")
    return "\n\n".join(parts) + "\n"


def _printed(output: dict[str, Any]) -> list[str]:
    if output["output_type"] == "stream":
        return output["text"] if output["name"] == "stdout" else []
    return output.get("data", {}).get("text/plain", [])


# -- links ------------------------------------------------------------------------------------------


def _source(uri: str) -> str:
    """Where a page lies in the repository."""
    if uri.startswith("notebooks/"):
        return f"examples/{posixpath.basename(uri)}"
    return uri.removeprefix(REPOSITORY) if uri.startswith(REPOSITORY) else f"docs/{uri}"


def _uri(path: str) -> str:
    """Where a file of the repository lies in the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") else REPOSITORY + path


def _target(link: str, page: str) -> tuple[str, str] | None:
    """The file of the repository that `link` on `page` names, and its anchor; None for all other links."""
    where, _, anchor = link.partition("#")
    if not where or "://" in where or where.startswith(("mailto:", "/")):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(_source(page)), urllib.parse.unquote(where)))
    if (ROOT / path).is_dir():
        path = posixpath.join(path, "README.md")
    return path, f"#{anchor}" if anchor else ""


def _links(text: str) -> Iterator[str]:
    for piece in FENCE.split(text)[::2]:
        yield from LINK.findall(piece)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are written here, then whatever pages link to outside docs/."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    waiting = [(file.src_uri, file.content_string) for file in files if file.is_documentation_page()]
    while waiting:
        page, text = waiting.pop()
        for link in _links(text):
            found = _target(link, page)
            if found is None or not (ROOT / found[0]).is_file() or files.get_file_from_path(_uri(found[0])):
                continue
            uri = _uri(found[0])
            file = File.generated(
                config, uri, abs_src_path=str(ROOT / found[0]), inclusion=InclusionLevel.NOT_IN_NAV
            )
            files.append(file)
            if file.is_documentation_page():
                waiting.append((uri, file.content_string))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at where their files lie in the site."""
    here = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        found = _target(match[1], here)
        if found is None:
            return match[1]
        return posixpath.relpath(_uri(found[0]), posixpath.dirname(here) or ".") + found[1]

    pieces = FENCE.split(markdown)
    pieces[::2] = [LINK.sub(moved, piece) for piece in pieces[::2]]
    return "".join(pieces)


class _Page(html.parser.HTMLParser):
    """What a built page links to and which anchors it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.links.append(value)
            elif key in ("id", "name") and value:
                self.anchors.add(value)


def broken_links(site: Path) -> list[str]:
    """Return `PAGE: LINK` for every link of a built site that leads to no file or no anchor of it."""
    pages: dict[Path, _Page] = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = _Page()
        pages[path].feed(path.read_text(encoding="utf-8"))
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links begin at the root of the host
            continue
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken


def on_post_build(config: Any) -> None:
    """Warn of every broken link; `strict` makes that an error."""
    for text in broken_links(Path(config["site_dir"]).resolve()):
        LOG.warning("broken link: %s", text)

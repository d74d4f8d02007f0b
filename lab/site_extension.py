"""The Sphinx extension of `make docs`: generated tables, pictures, and a check of the names on each page.

A setting, metric, option, exit code or error code that does not exist is a warning, and warnings fail the build.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from lab import site_diagrams
from lab import site_names as names
from lab.site_reference import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.domains import Domain

LOG = logging.getLogger(__name__)
PAGES = {
    "setting": "docs/reference/settings",
    "metric": "docs/reference/metrics",
    "error": "docs/reference/error-codes",
}
UNCHECKED = {"CHANGELOG"}  # tells of names that are gone
CONTRACT = "docs/plugins/contract"
HOME = "docs/index.html"


class Generated(SphinxDirective):
    """``{generated} NAME``: a table made from the code."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        if (name := self.arguments[0]) not in TABLES:
            raise self.error(f"there is no table {name!r}; known are {', '.join(TABLES)}")
        return self.parse_text_to_nodes(TABLES[name](), allow_section_headings=True)


class Mermaid(SphinxDirective):
    """A sequence diagram; its source stands below the picture for those who cannot see it."""

    has_content = True
    option_spec = {"name": directives.unchanged}  # noqa: RUF012 - docutils wants it so

    def run(self) -> list[nodes.Node]:
        try:
            picture = site_diagrams.svg("\n".join(self.content))
        except ValueError as error:
            raise self.error(str(error)) from None
        return [nodes.raw("", f'<div class="diagram">{picture}</div>', format="html")]


def problems(node: nodes.Element, docname: str) -> Iterable[str]:
    """What a text names and nothing has. ``node`` is a literal, a block of code, or running text's paragraph."""
    text = node.astext()
    variables = names.variables() | (names.constants() if docname == CONTRACT else frozenset())
    for name in sorted(set(names.VARIABLE.findall(text)) - variables):
        yield f"there is no setting {name}"
    for name in sorted({*names.METRIC.findall(text)} - names.metrics().keys() - names.words()):
        yield f"there is no metric {name}"
    for line in text.splitlines():
        yield from names.unknown_options(line)
    if isinstance(node, nodes.literal):
        before = node.parent.children[node.parent.index(node) - 1].astext().rstrip() if node.parent.index(node) else ""
        if names.ERROR_CODE.search(before) and re.fullmatch(r"[a-z_0-9]+", text) and text not in names.error_codes():
            yield f"there is no error code {text}"
        elif names.WORD.fullmatch(text) and not names.METRIC.match(text) and text not in names.words():
            yield f"nothing in the code is called {text}"
    for codes in names.EXIT_CODE.findall(text):
        for code in codes:
            if code and code not in names.exit_codes():
                yield f"there is no exit code {code}"


def check(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Judge each page's names, and link those of settings, metrics and error codes to the reference."""
    if docname in UNCHECKED:
        return
    told: set[str] = set()
    for node in doctree.findall(nodes.TextElement):
        if isinstance(node, nodes.raw):
            continue
        for problem in problems(node, docname):
            if problem not in told:
                told.add(problem)
                LOG.warning("%s", problem, location=node)
    for literal in list(doctree.findall(nodes.literal)):
        link(app, literal, docname)


def link(app: Sphinx, literal: nodes.literal, docname: str) -> None:
    text = literal.astext().partition("=")[0]
    found = [("setting", names.settings()), ("metric", names.metrics()), ("error", names.error_codes())]
    kind, anchor = next(((kind, known[text]) for kind, known in found if text in known), ("", ""))
    if not kind or PAGES[kind] == docname or isinstance(literal.parent, nodes.reference | nodes.title):
        return
    uri = f"{app.builder.get_relative_uri(docname, PAGES[kind])}#{anchor}"
    reference = nodes.reference("", "", internal=True, refuri=uri)
    literal.replace_self(reference)
    reference += literal


def may_be_missing(_app: Sphinx, _domain: Domain | None, node: pending_xref) -> bool | None:
    """Docstrings refer to Python's names and to our own insides, which have no page: those are shown without a link."""
    return node.get("refdoc") == CONTRACT or None


def finish(app: Sphinx, error: Exception | None) -> None:
    """The site's folder opens at its home page."""
    if not error:
        target = f'<meta http-equiv="refresh" content="0; url={HOME}"><a href="{HOME}">StreamSpace Agent</a>'
        (app.outdir / "index.html").write_text(f"<!doctype html><title>StreamSpace Agent</title>{target}\n")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("generated", Generated)
    app.add_directive("mermaid", Mermaid)
    app.connect("doctree-resolved", check)
    app.connect("warn-missing-reference", may_be_missing)
    app.connect("build-finished", finish)
    return {"version": "1", "parallel_read_safe": True}

"""Rules of CONTRIBUTING.md for the code that no linter checks."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamspace_agent
from streamspace_agent import errors

CORE = Path(streamspace_agent.__file__).parent
SOURCES = {path.relative_to(CORE).as_posix(): path.read_text() for path in CORE.rglob("*.py")}
OURS = {node.name for node in ast.parse(SOURCES["errors.py"]).body if isinstance(node, ast.ClassDef)}

CHANGES = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert"),
    *("pop", "popitem", "remove", "setdefault", "update"),
}


def exception_classes(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            if any(base.endswith(("Error", "Exception")) or base in OURS for base in bases):
                yield node.name


def module_state(source: str) -> Iterator[str]:
    """Names at the top of a module that its own functions change: by a method, by an item, by ``+=`` or by ``global``.

    A ContextVar is no shared state: each task has its own value.
    """
    tree = ast.parse(source)
    assigned = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value]
    top = {
        ast.unparse(target)
        for node in assigned
        if not ast.unparse(node.value).startswith("ContextVar(")
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    for node in ast.walk(tree):
        match node:
            case ast.Global(names=names):
                yield from names
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if method in CHANGES:
                yield from {name} & top
            case (
                ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del())
                | ast.Attribute(value=ast.Name(id=name), ctx=ast.Store() | ast.Del())
                | ast.AugAssign(target=ast.Name(id=name))
            ):
                yield from {name} & top


PACKAGES = [CORE, *sorted((Path(__file__).resolve().parents[2] / "plugins").glob("streamspace-*/src/*/"))]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_exception_is_defined_in_the_errors_module_of_its_package(package):
    sources = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
    found = {name: [*exception_classes(source)] for name, source in sources.items() if name != "errors.py"}
    assert {name: classes for name, classes in found.items() if classes} == {}


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_docstring_of_errors_shows_every_exception(name):
    assert f":exc:`{name}`" in errors.__doc__


def test_no_module_of_the_core_keeps_state():
    found = {name: sorted({*module_state(source)}) for name, source in SOURCES.items()}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "known = set()\ndef hide(it): known.add(it)",
        "fields = {}\ndef name(it): fields['name'] = it",
        "fields = {}\ndef name(it): del fields['name']",
        "total = 0\ndef count():\n    global total\n    total += 1",
        "the = Client()\ndef use(): the.timeout = 5",
    ],
)
def test_state_of_a_module_is_seen(source):
    assert [*module_state(source)]


def test_an_exception_is_seen_by_its_base():
    assert [*exception_classes("class Gone(LeaseLost): ...\nclass Odd(ValueError): ...\nclass Plain: ...")] == [
        "Gone",
        "Odd",
    ]

"""Rules of CONTRIBUTING.md for the code that no linter checks."""

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

import streamspace_agent
from streamspace_agent import errors

ROOT = Path(__file__).resolve().parents[2]
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


PACKAGES = [CORE, *sorted((ROOT / "plugins").glob("streamspace-*/src/*/"))]


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


PRIVATE = re.compile(r"_[A-Za-z]\w*")
NO_OTHER_NAME = {"os._exit"}
"""What the standard library documents under such a name."""


def own_names(tree: ast.Module) -> Iterator[str]:
    """Names that the classes of a module define: methods, fields, and what they set of ``self``."""
    for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for node in ast.walk(kind):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                    yield name
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    yield name


def private_uses(tree: ast.Module, own: Collection[str]) -> Iterator[str]:
    """Reads, imports and patches of underscored names that are not in ``own``."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                used = [(name, ast.unparse(node))]
            case ast.ImportFrom(module=module, names=names):
                used = [(each.name, f"{module}.{each.name}") for each in names]
            case ast.Call(func=ast.Name(id=call) | ast.Attribute(attr=call)) if call.endswith(("attr", "object")):
                texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
                used = [(text.rpartition(".")[2], text) for text in texts if isinstance(text, str)]
            case _:
                continue
        for name, text in used:
            if PRIVATE.fullmatch(name) and name not in own and not text.endswith(tuple(NO_OTHER_NAME)):
                yield text


def test_tests_use_nothing_that_others_keep_private():
    """Nor does the lab that they stand on: both use the product as its users do."""
    found = {}
    for folder in (ROOT / "tests", ROOT / "lab", *ROOT.glob("plugins/*/tests")):
        for path in folder.rglob("*.py"):
            tree = ast.parse(path.read_text())
            if used := [*private_uses(tree, {*own_names(tree)})]:
                found[path.relative_to(ROOT).as_posix()] = used
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "assert agent._elector is None",
        "agent._lanes['x'] = 1",
        "from streamspace_agent.agent import _unless",
        "monkeypatch.setattr(agent, '_unless', None)",
        "monkeypatch.setattr('streamspace_agent.agent._unless', None)",
        "getattr(agent, '_elector')",
        "class Odd(Backend):\n    def renew(self): return self._send()",
        "class Odd(Backend):\n    def renew(self): return super()._send()",
    ],
)
def test_the_use_of_something_private_is_seen(source):
    tree = ast.parse(source)
    assert [*private_uses(tree, {*own_names(tree)})]


@pytest.mark.parametrize(
    "source",
    [
        "class Own:\n    def __init__(self): self._made = []\nassert Own()._made == []",
        "class Own:\n    _made: int = 0\n    def _look(self): return self._made\nOwn()._look()",
        "os._exit(9)",
        "monkeypatch.setattr('streamspace_agent.agent.os._exit', print)",
        "print(agent.__class__.__name__)",
    ],
)
def test_what_a_test_has_made_itself_may_be_private_to_it(source):
    tree = ast.parse(source)
    assert [*private_uses(tree, {*own_names(tree)})] == []


def test_an_exception_is_seen_by_its_base():
    assert [*exception_classes("class Gone(LeaseLost): ...\nclass Odd(ValueError): ...\nclass Plain: ...")] == [
        "Gone",
        "Odd",
    ]

"""What the documents have people install is this repository's own, whatever an index offers under the same names."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path for path in ROOT.rglob("*.md") if not {".venv", "build", "node_modules"} & {*path.relative_to(ROOT).parts}
]
OPTIONS_WITH_VALUE = {"--find-links", "-f", "-c", "--constraint", "--target", "--python"}


def named(command):
    """The requirements of a `pip install` that an index would be asked for."""
    words, found = iter(shlex.split(command, comments=True)), []
    for word in words:
        if word == "--no-index":
            return []
        if word in OPTIONS_WITH_VALUE:
            next(words, None)
        elif not word.startswith("-") and "/" not in word and word != ".":
            found.append(word)
    return found


def commands(text):
    return [line.partition("`")[0] for line in re.findall(r"pip install +(.*)", text)]


def test_a_command_that_asks_an_index_is_told_from_one_that_does_not():
    assert named("--find-links dist 'streamspace-agent[docker]'  # more") == ["streamspace-agent[docker]"]
    assert named("dist/streamspace_agent-*.whl docker") == ["docker"]
    assert named("--no-index --find-links dist streamspace-agent") == named(". ") == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_has_one_of_our_names_looked_up_in_an_index(path):
    wrong = [line for line in commands(path.read_text()) if any("streamspace" in name for name in named(line))]
    assert wrong == []


def test_a_clones_wheels_are_named_as_files_that_make_wheels_makes():
    ours = {
        re.search(r'^name = "(.*)"', path.read_text(), re.MULTILINE)[1].replace("-", "_")
        for path in [ROOT / "core/pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    }
    said = {name for path in DOCUMENTS for name in re.findall(r"dist/(streamspace_\w+)-\*\.whl", path.read_text())}
    assert "streamspace_agent" in said
    assert said <= ours

"""The site is built without a warning and loads nothing from elsewhere; a wrong link or name fails its build."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from lab import site_diagrams, site_names
from streamspace_agent.cli import options
from streamspace_agent.cli.exit_codes import EXIT_CODES
from streamspace_agent.cli.main import cli
from streamspace_agent.config import ALIASES, Settings, is_secret, variable
from streamspace_agent.errors import COMMAND_CODES
from streamspace_agent.health.metrics import TABLE, full_name
from streamspace_runtime_docker.settings import DockerSettings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "deployments/README.md")
]
PAGES += [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]

# What a page says, and the warning that fails the build for it.
FAULTS = {
    "page": ("See [the page](nowhere.md).", "nowhere.md"),
    "anchor": ("See [below](#nowhere).", "nowhere"),
    "anchor-of-a-page": ("See [there](other.md#nowhere).", "local id not found in doc 'docs/other': 'nowhere'"),
    "setting": ("Set `NO_SUCH_SETTING=1`.", "there is no setting NO_SUCH_SETTING"),
    "setting-in-prose": ("Set NO_SUCH_SETTING.", "there is no setting NO_SUCH_SETTING"),
    "setting-in-a-command": ("```bash\nexport NO_SUCH_SETTING=1\n```", "there is no setting NO_SUCH_SETTING"),
    "metric": ("`streamspace_agent_nothing_total` rises.", "there is no metric streamspace_agent_nothing_total"),
    "metric-in-code": (
        "```text\nrate(streamspace_agent_nothing_total[5m])\n```",
        "there is no metric streamspace_agent_no",
    ),
    "option": ("`docker-agent check --nothing`", "docker-agent has no option --nothing"),
    "option-of-another-command": ("`docker-agent check --dry-run`", "docker-agent has no option --dry-run"),
    "option-in-a-command": (
        "```bash\nsudo docker-agent gc --nothing   # so\n```",
        "docker-agent has no option --nothing",
    ),
    "option-of-the-plane": ("`streamspace-devplane serve --nothing`", "streamspace-devplane has no option --nothing"),
    "exit-code": ("It ends with exit code 9.", "there is no exit code 9"),
    "exit-codes": ("Exit codes 2 and 99 are final.", "there is no exit code 99"),
    "error-code": ("The start fails with `no_such_code`.", "there is no error code no_such_code"),
    "error-code-of-one-word": ("The error code `nonesuch` says so.", "there is no error code nonesuch"),
    "name": ("The function `no_such_function` does it.", "nothing in the code is called no_such_function"),
    "reference": ("{py:class}`streamspace_agent.election.Nothing`", "streamspace_agent.election.Nothing"),
    "picture": ("```mermaid\nsequenceDiagram\n    loop forever\n```", "cannot draw the line 'loop forever'"),
    "table": ("```{generated} nothing\n```", "there is no table 'nothing'"),
    "image": ("![a picture](nowhere.png)", "nowhere.png"),
}


def build(source, target, doctrees):
    command = [sys.executable, "-m", "sphinx", "-E", "-q", "-W", "--keep-going", "-d", doctrees, "-c", ROOT / "docs"]
    return subprocess.run([*map(str, command), str(source), str(target)], capture_output=True, text=True, timeout=110)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder / "html", folder / "doctrees")
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    """Every page by its path, parsed."""
    found = {str(path.relative_to(site)): path.read_text() for path in site.rglob("*.html")}
    return {name: BeautifulSoup(text, "html.parser") for name, text in found.items()}


@pytest.fixture
def page(pages):
    return lambda name: pages[f"{name}.html"]


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """The build of a site whose pages have one fault each."""
    folder = tmp_path_factory.mktemp("faults")
    pages = folder / "source/docs"
    pages.mkdir(parents=True)
    toctree = "\n".join(["other", *FAULTS])
    (pages / "index.md").write_text(f"# Home\n\n```{{toctree}}\n{toctree}\n```\n")
    (pages / "other.md").write_text(
        "# Sound\n\nSet `AGENT_ID`. It fails with `busy`, exit code 2: `docker-agent gc --dry-run`.\n"
    )
    for name, (text, _) in FAULTS.items():
        (pages / f"{name}.md").write_text(f"# A page\n\n{text}\n")
    return build(folder / "source", folder / "html", folder / "doctrees")


@pytest.mark.parametrize("name", FAULTS)
def test_a_page_with_a_wrong_link_or_name_fails_the_build(refused, name):
    assert refused.returncode != 0
    told = [line for line in refused.stderr.splitlines() if f"/docs/{name}.md" in line]
    assert len(told) == 1, refused.stderr
    assert FAULTS[name][1] in told[0]


def test_a_page_without_a_fault_is_not_told(refused):
    assert "other.md:" not in refused.stderr


def test_the_site_loads_nothing_from_another_host(site, pages):
    loaded = []
    for soup in pages.values():
        loaded += [tag.get("src") for tag in soup.find_all(["script", "img", "iframe", "source"]) if tag.get("src")]
        loaded += [tag["href"] for tag in soup.find_all("link") if tag.get("rel") != ["canonical"]]
    for path in site.rglob("*.css"):
        loaded += re.findall(r"url\(['\"]?([^)'\"]+)|@import ['\"]([^'\"]+)", path.read_text())
    assert loaded
    assert [name for name in loaded if re.match(r"(https?:)?//", "".join(name))] == []


def test_the_site_opens_at_its_home_page(site):
    target = re.search(r"url=([\w/.]+)", (site / "index.html").read_text())[1]
    assert "first-desktop.html" in (site / target).read_text()


def rows(soup):
    return [[cell.get_text() for cell in row.find_all("td")] for row in soup.find_all("tr") if row.find("td")]


def plain(text):
    return text.replace("`", "")


def test_the_reference_lists_every_setting_in_the_order_of_the_help_with_option_meaning_and_default(page):
    expected = []
    for field in options.grouped():
        info, name = Settings.model_fields[field], variable(field)
        given = ", ".join(option.opts[0] for option in options.setting_options() if option.field == field)
        secret = f"; or a file with it: {name}_FILE" if is_secret(field) else ""
        default = "required" if info.is_required() else options.default_text(field)
        expected.append([name, given, plain(f"{info.description}{secret}"), default])
    assert [row for row in rows(page("docs/reference/settings")) if len(row) == 4] == expected


def test_the_reference_lists_every_setting_of_the_docker_driver_with_meaning_and_default(page):
    listed = [row for row in rows(page("docs/reference/settings")) if len(row) == 3]
    fields = DockerSettings.model_fields
    assert [row[:2] for row in listed] == [[variable(f), plain(info.description)] for f, info in fields.items()]
    assert DockerSettings(**{row[0].lower(): row[2].strip("-") for row in listed}) == DockerSettings()


def test_the_reference_tells_the_other_names_of_a_setting(page):
    text = page("docs/reference/settings").get_text()
    assert all(alias in text for alias in ALIASES)


def test_the_reference_lists_every_metric_with_type_labels_and_meaning_and_no_other(page):
    expected = [[full_name(row), row.kind, ", ".join(row.labels) or "-", row.help] for row in TABLE]
    assert rows(page("docs/reference/metrics")) == expected


def test_the_reference_lists_every_exit_code_and_no_other(page):
    assert rows(page("docs/reference/exit-codes")) == [list(row) for row in EXIT_CODES]


def test_the_reference_lists_every_error_code_and_no_other(page):
    assert rows(page("docs/reference/error-codes")) == [list(row) for row in COMMAND_CODES]


def test_the_reference_shows_the_help_of_every_command_and_tells_what_each_is_for(page):
    soup = page("docs/reference/command-line")
    shown = html.unescape(soup.get_text())
    for name, command in cli.commands.items():
        assert f"Usage: docker-agent {name}" in shown
        assert all(option in shown for parameter in command.params if not parameter.hidden for option in parameter.opts)
        assert any(row[0].split()[:2] == ["docker-agent", name] for row in rows(soup) if len(row) == 2)


@pytest.mark.parametrize(
    ("where", "name"),
    [("settings", "AGENT_ID"), ("metrics", "streamspace_agent_leader_lost_total"), ("error-codes", "not_ready")],
)
def test_a_name_in_the_text_leads_to_its_place_in_the_reference(pages, page, where, name):
    links = [link for soup in pages.values() for link in soup.find_all("a", href=True) if link.get_text() == name]
    links = {link["href"] for link in links if f"reference/{where}.html#" in link["href"]}
    anchors = {link.rpartition("#")[2] for link in links}
    assert len(anchors) == 1
    assert page(f"docs/reference/{where}").find(id=anchors.pop()).get_text() == name


def test_names_of_other_programs_are_allowed_only_while_a_page_needs_them():
    text = "\n".join(path.read_text() for path in PAGES) + (ROOT / "core/src/streamspace_agent/errors.py").read_text()
    allowed = site_names.FOREIGN_VARIABLES | site_names.FOREIGN_WORDS
    assert {name for name in allowed if not re.search(rf"\b{name}\b", text)} == set()


def test_the_pictures_are_drawn_with_every_line_of_their_source(page):
    drawn = page("docs/how-it-works").find_all("svg", class_="sequence")
    sources = re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs/how-it-works.md").read_text(), re.DOTALL)
    assert len(drawn) == len(sources) == 3
    for picture, source in zip(drawn, sources, strict=True):
        shown = {text.get_text() for text in picture.find_all("text")}
        lines = source.strip().splitlines()[1:]
        assert {re.split(r" as |: ", line, maxsplit=1)[1] for line in lines} == shown


def test_a_picture_with_somebody_unknown_is_refused():
    with pytest.raises(ValueError, match="no participant 'B' in the line 'A->>B: text'"):
        site_diagrams.svg("sequenceDiagram\nparticipant A as one\nA->>B: text")


def test_the_glossary_has_at_most_twenty_entries():
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert 10 < len(words) <= 20
    assert words == sorted(words, key=str.lower)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_prose_of_a_page_is_wrapped(path):
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "![", "["))]
    assert [line for line in lines if len(line) > 120] == []

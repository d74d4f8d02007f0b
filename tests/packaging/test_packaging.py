"""The distributions as users get them: wheels built by plain pip, installed into virtual environments of their own.

The folder of wheels holds everything, third-party libraries too, so that an installation asks no index: a name
of ours that somebody else registered could not slip in.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

from streamspace_agent import __version__
from streamspace_agent.config import Settings

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = [ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
PROJECTS = {path: tomllib.loads((path / "pyproject.toml").read_text())["project"] for path in MEMBERS}
CORE = PROJECTS[ROOT / "core"]
CORE["version"] = __version__  # which its pyproject.toml leaves to the package
BUILD_REQUIREMENTS = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text())["build-system"]["requires"]
PLUGINS = [project["name"] for path, project in PROJECTS.items() if path.parent.name == "plugins"]
OWN = {
    project["name"]: [Requirement(text).name for text in project["dependencies"] if text.startswith("streamspace-")]
    for project in PROJECTS.values()
}
"""Our own distributions that each requires."""
EXTRAS = {
    extra: requirements[0].split(">")[0]
    for extra, requirements in CORE["optional-dependencies"].items()
    if extra not in {"all", "testing"} and requirements[0].split(">")[0] in PLUGINS
}
VARIABLES = {name.upper() for name in Settings.model_fields}
CLEAN = {name: value for name, value in os.environ.items() if name not in VARIABLES and not name.startswith("PYTHON")}
BY_FILE = "pip install PATH/{}-*.whl, from where this agent's wheels are (`make wheels`)"
REQUIRED = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://127.0.0.1:9"}

pytestmark = pytest.mark.timeout(400)


def call(*command, check=True, **more):
    result = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, timeout=300, **more)
    assert not check or result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy: a build leaves `build` and `*.egg-info` behind."""
    copy = tmp_path_factory.mktemp("checkout")
    clutter = shutil.ignore_patterns("build", "dist", "*.egg-info", "__pycache__", ".*")
    for member in MEMBERS:
        shutil.copytree(member, copy / member.relative_to(ROOT), ignore=clutter)
    return copy


@pytest.fixture(scope="session")
def made(checkout, tmp_path_factory):
    """A checkout after `make wheels`, where an earlier build has left its folder."""
    copy = tmp_path_factory.mktemp("made") / "checkout"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    shutil.copy(ROOT / "Makefile", copy)
    (copy / "core" / "build" / "lib" / "streamspace_agent").mkdir(parents=True)
    (copy / "core" / "build" / "lib" / "streamspace_agent" / "deleted.py").touch()
    call("make", "wheels", "-o", "env", f"BIN={Path(sys.executable).parent}", cwd=copy)
    return copy


@pytest.fixture(scope="session")
def wheels(made, tmp_path_factory):
    """The folder with the wheels of all distributions and of what they require."""
    folder = tmp_path_factory.mktemp("wheels")
    shutil.copytree(made / "dist", folder, dirs_exist_ok=True)
    needed = [text for project in PROJECTS.values() for text in project["dependencies"]]
    needed += CORE["optional-dependencies"]["testing"]
    foreign = [text for text in needed if not Requirement(text).name.startswith("streamspace-")]
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    call(*pip, "download", "--only-binary=:all:", "--dest", folder, *foreign, *BUILD_REQUIREMENTS)
    return folder


class Environment:
    def __init__(self, folder, wheels):
        self.bin = folder / "bin"
        self.wheels = wheels
        venv.create(folder, with_pip=False, symlinks=True)

    def install(self, *what, **more):
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", self.bin / "python")
        call(*pip, "install", "--no-compile", *what, env=CLEAN, **more)  # what is never imported need not be compiled

    def shell(self, line, *, cwd, **environ):
        pip = shlex.join((sys.executable, "-m", "pip", "--quiet", "--python", str(self.bin / "python")))
        call("bash", "-c", f'pip() {{ {pip} "$@"; }}\n{line}', env={**CLEAN, **environ}, cwd=cwd)

    def run(self, command, *arguments, check=True, **environ):
        return call(self.bin / command, *arguments, check=check, env={**CLEAN, **environ}, cwd=self.bin.parent)

    def plugins(self, **environ):
        answer = self.run("docker-agent", "plugins", "--json", check=False, **environ)
        return {(row["kind"], row["name"]): row for row in json.loads(answer.stdout)["plugins"]}

    def installed(self):
        code = "from importlib.metadata import distributions; print(*{d.name for d in distributions()})"
        return set(self.run("python", "-c", code).stdout.split())


@pytest.fixture
def environment(tmp_path, wheels):
    return Environment(tmp_path / "venv", wheels)


def from_wheels(environment, *what):
    environment.install("--no-index", "--find-links", environment.wheels, *what)


def wheel_of(wheels, name):
    (path,) = wheels.glob(f"{name.replace('-', '_')}-*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda path: path.name)
def test_a_wheel_holds_its_package_and_nothing_else(wheels, member):
    project = PROJECTS[member]
    (package,) = [path.name for path in (member / "src").iterdir() if not path.name.endswith(".egg-info")]
    with wheel_of(wheels, project["name"]) as wheel:
        names = [PurePosixPath(name) for name in wheel.namelist()]
        metadata = HeaderParser().parsestr(wheel.read(next(str(n) for n in names if n.name == "METADATA")).decode())
    tops = {name.parts[0] for name in names}
    assert tops == {package, f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"}
    assert PurePosixPath(package, "py.typed") in names
    assert any(name.name == "LICENSE" for name in names)
    source = {path.relative_to(member / "src") for path in (member / "src" / package).rglob("*") if path.is_file()}
    source = {PurePosixPath(path) for path in source if "__pycache__" not in path.parts}
    assert {name for name in names if name.parts[0] == package} == source
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Summary"]
    assert len(metadata.get_payload()) > 100, "the README is missing"


def test_all_distributions_have_one_version_and_plugins_demand_the_core_of_it():
    assert {project["version"] for project in PROJECTS.values()} == {CORE["version"]}
    major, minor, _ = CORE["version"].split(".")
    span = f"streamspace-agent>={major}.{minor},<{major}.{int(minor) + 1}"
    for project in PROJECTS.values():
        if project.get("entry-points") and project is not CORE:
            assert span in project["dependencies"], project["name"]


def test_the_core_alone_works_and_names_the_plugin_it_misses(environment):
    from_wheels(environment, "streamspace-agent")
    assert not {name for name in environment.installed() if name.startswith("streamspace-")} - {"streamspace-agent"}
    assert not environment.installed() & {"docker", "redis", "starlette", "uvicorn", "pytest"}
    for command in ("docker-agent", "streamspace-agent"):
        assert environment.run(command, "--version").stdout == f"docker-agent {CORE['version']}\n"
    refused = environment.run("docker-agent", "run", check=False, STATE_DIR=str(environment.bin), **REQUIRED)
    assert refused.returncode == 2
    files = BY_FILE.format("streamspace_engine-*.whl PATH/streamspace_runtime_docker")
    assert refused.stderr.splitlines()[-1].endswith(files)
    assert set(environment.plugins()) == {("commands", "sessions")}


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_brings_its_plugin_from_a_folder_of_wheels_and_no_other(environment, extra):
    from_wheels(environment, f"streamspace-agent[{extra}]")
    ours = {name for name in environment.installed() if name.startswith("streamspace-")}
    assert ours == {"streamspace-agent", EXTRAS[extra], *OWN[EXTRAS[extra]]}
    plugins = environment.plugins()
    ((_, plugin),) = [item for item in plugins.items() if item[0][0] != "commands"]
    assert (plugin["name"], plugin["distribution"]) == (extra, EXTRAS[extra])
    assert plugin["loads"], plugin["problem"]


def test_an_agent_without_the_gateway_that_it_is_asked_for_ends_and_names_the_line_that_mends_it(environment):
    from_wheels(environment, "streamspace-agent[docker]")
    web = {"WEB_GATEWAY": "127.0.0.1:3000", "STATE_DIR": str(environment.bin)}
    refused = environment.run("docker-agent", "run", check=False, **web, **REQUIRED)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith(BY_FILE.format("streamspace_gateway"))


def stranger(folder, name, version="0.1.99"):
    """A wheel of that name with nothing in it, as anybody could put on an index."""
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{plain}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_the_readmes_commands_install_ours_where_an_index_has_newer_ones_of_these_names(environment, tmp_path):
    (tmp_path / "index").mkdir()
    for project in PROJECTS.values():
        stranger(tmp_path / "index", project["name"])
    lines = re.findall(r"^pip install (.*?)(?: +#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        wanted = [str(file) for word in line.split() for file in environment.wheels.glob(word.removeprefix("dist/"))]
        from_wheels(
            environment, "--find-links", tmp_path / "index", *(wanted or [line.strip('"').split()[-1].strip('"')])
        )
    rows = environment.plugins().values()
    assert {row["distribution"] for row in rows} == {"streamspace-agent", *EXTRAS.values()}
    assert {row["version"] for row in rows} == {CORE["version"]}


SUITE = """
import contextlib
import pytest
from streamspace_agent.election import Timing
from streamspace_agent.testing.election import ElectionBackendSuite
from streamspace_agent.testing.memory import MemoryBackend, Store

class Forgetful(MemoryBackend):
    async def acquire(self, me, seen):
        self.store.record = None
        return await super().acquire(me, None)

class TestForgetful(ElectionBackendSuite):
    @pytest.fixture
    def backend_factory(self):
        store = Store()
        return lambda: Forgetful(store, Timing(lease=5.0, renew_every=1.0, call_timeout=0.4, margin=0.5))
"""


def test_the_testing_extra_is_all_that_a_plugins_author_needs(environment, tmp_path):
    from_wheels(environment, "streamspace-agent[testing]")
    (tmp_path / "test_forgetful.py").write_text(SUITE)
    options = ("-q", "-W", "error::pytest.PytestAssertRewriteWarning", "--rootdir", tmp_path, "-p", "no:cacheprovider")
    tests = environment.run("python", "-m", "pytest", *options, "-k", "grant or epoch", tmp_path, check=False)
    assert tests.returncode == 1, tests.stdout + tests.stderr
    assert re.search(r"assert \d+ (==|>) \d+", tests.stdout), (
        "assertions of the installed suite do not show their values"
    )


@pytest.mark.parametrize("name", sorted(set(PLUGINS) - set(EXTRAS.values())))
def test_a_distribution_without_an_extra_installs_alone(environment, name):
    from_wheels(environment, name)
    project = next(project for project in PROJECTS.values() if project["name"] == name)
    for command in project.get("scripts", {}):
        assert environment.run(command, "--help").stdout.startswith("Usage: ")


def test_a_checkout_installs_with_plain_pip(environment, checkout, tmp_path):
    copy = tmp_path / "checkout"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    links = ("--no-index", "--find-links", environment.wheels)
    environment.install(*links, "./core", "./plugins/streamspace-elect-file", cwd=copy)
    assert environment.plugins()["election", "file"]["loads"]


def commands(document, heading):
    """The lines of the first shell block below a heading."""
    text = (ROOT / document).read_text().partition(f"\n{heading}\n")[2].partition("```bash\n")[2].partition("```")[0]
    return text.replace("/path/to/this/clone", ".").splitlines()


def make_and_installations(document, heading):
    lines = commands(document, heading)
    return shlex.split(lines[0], comments=True), [line for line in lines if line.startswith("pip install ")]


def test_make_wheels_builds_every_distribution_anew(made):
    built = list((made / "dist").glob("*.whl"))
    assert {path.name.split("-")[0].replace("_", "-") for path in built} == {p["name"] for p in PROJECTS.values()}
    with wheel_of(made / "dist", "streamspace-agent") as wheel:
        assert "streamspace_agent/deleted.py" not in wheel.namelist()


@pytest.mark.parametrize(
    ("document", "heading"), [("README.md", "## Install"), ("docs/plugins/election.md", "## Its tests")]
)
def test_the_documents_way_from_a_clone_to_an_installation_needs_nothing_of_ours_on_an_index(
    environment, made, wheels, tmp_path, document, heading
):
    make, installations = make_and_installations(document, heading)
    assert make in (["make", "wheels"], ["make", "-C", ".", "wheels"])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for path in wheels.iterdir():
        if not path.name.startswith("streamspace_"):
            (foreign / path.name).symlink_to(path)
    assert installations
    for line in installations:  # by a shell, as it stands there; ours are files, all else is where an index would be
        environment.shell(line, cwd=made, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(foreign))
    assert environment.run("docker-agent", "--version").stdout == f"docker-agent {CORE['version']}\n"

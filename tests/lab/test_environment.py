import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_of_the_environment_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonical(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    ours = {
        tomllib.loads(file.read_text())["project"]["name"]
        for file in [ROOT / "core/pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    }
    installed = {canonical(found.name): found.version for found in distributions() if found.name not in ours}
    assert {name: version for name, version in installed.items() if pins.get(name) != version} == {}

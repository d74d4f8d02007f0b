"""Every kind of broken backend and driver fails the conformance suites, in the test that names its fault."""

import itertools
import subprocess
import sys
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.core.broken import backends, drivers, stores

pytestmark = pytest.mark.slow


CASES = Path(__file__).parent / "broken" / "cases.py"
FAULTS = {broken.__name__: test for module in (backends, stores, drivers) for broken, test in module.FAULTS.items()}

PARTS = 3
"""Side by side: most of them wait most of the time."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Class and test to what became of it, from a pytest of its own in strict asyncio mode, as a plugin's author may
    have it."""
    folder = tmp_path_factory.mktemp("report")
    wanted = [f"{CASES}::Test{name}::{test}" for name, test in FAULTS.items()]

    def run(part):
        report = folder / f"{part}.xml"
        options = ("-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=strict", f"--junitxml={report}")
        root = ["--rootdir", str(CASES.parents[3])]
        command = [sys.executable, "-m", "pytest", *options, *root, *wanted[part::PARTS]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 1, done.stdout + done.stderr
        return ET.parse(report).iter("testcase")

    found = {}
    with ThreadPoolExecutor(PARTS) as pool:
        for case in itertools.chain.from_iterable(pool.map(run, range(PARTS))):
            name = case.get("classname").rpartition(".Test")[2]
            found.setdefault(name, []).append((case.get("name").partition("[")[0], [child.tag for child in case], case))
    return found


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_fails_the_test_that_names_it(outcomes, name):
    results = outcomes[name]
    assert {test for test, _, _ in results} == {FAULTS[name]}
    assert any("failure" in tags for _, tags, _ in results), f"the suite passed {name}"


def test_a_failed_assertion_of_the_suites_shows_its_values(outcomes):
    text = "".join(outcomes["ForgetsTheEpoch"][0][2].itertext())
    assert "assert 1 == (1800000000000 + 1002)" in text

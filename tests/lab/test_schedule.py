"""`make test` starts the longest files first, and says which tests it ran twice."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.schedule import PATIENT_NICE, PROMPT_WORKERS

ROOT = Path(__file__).resolve().parents[2]
SLOW = "import time\ndef test_one():\n    time.sleep({})\ndef test_two():\n    pass\n"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name, seconds in (("a", 0), ("b", 0.2), ("c", 0.4)):
        (tmp_path / f"test_{name}.py").write_text(SLOW.format(seconds))

    def run(*options):
        command = [sys.executable, "-m", "pytest", "-p", "lab.schedule", "-v", *options]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker's
        environ = {**plain, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False).stdout

    return run


def order(output):
    return re.findall(r"^test_(\w)\.py::test_(\w+) ", output, re.MULTILINE)


def test_the_files_that_took_longest_in_the_last_run_come_first_each_in_its_own_order(run):
    assert [file for file, _ in order(run())] == list("aabbcc")
    assert order(run()) == [(file, test) for file in "cba" for test in ("one", "two")]


def test_workers_take_the_longest_file_first(run):
    run()
    output = run("-n", "1", "--no-loadscope-reorder")
    assert re.findall(r"PASSED test_(\w)", output) == list("ccbbaa")


def test_what_runs_a_second_time_is_counted_and_named_before_the_summary(run):
    assert re.search(r"run twice: none =+\n\n?=+ 6 passed", run())
    output = run("--second-try", "test_a.py")
    assert re.search(r"run twice: 2 =+\ntest_a.py::test_one\ntest_a.py::test_two\n\n?=+ 2 passed", output)


def test_a_run_with_failures_does_not_say_that_nothing_runs_twice(run, tmp_path):
    (tmp_path / "test_a.py").write_text("def test_it():\n    assert 0\n")
    assert "run twice" not in run()


def test_tests_of_deadlines_run_on_workers_that_keep_their_priority(run, tmp_path):
    prompt = math.ceil(PROMPT_WORKERS * os.cpu_count())
    told = (
        "import os\ndef test_it():\n    open({!r} + os.environ['PYTEST_XDIST_WORKER'], 'a').write(f'{{os.nice(0)}} ')\n"
    )
    for folder in ("core", "integration"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        for number in range(12):
            (tmp_path / "tests" / folder / f"test_{folder}_{number}.py").write_text(
                told.format(f"{tmp_path}/{folder}.")
            )
    usual = os.nice(0)
    output = run("-n", str(2 * prompt), "--no-loadscope-reorder", "tests")
    assert "24 passed" in output
    nices = {path.name: set(path.read_text().split()) for path in tmp_path.glob("*.gw*")}
    for name, found in nices.items():
        folder, worker = name.split(".gw")
        assert found == {str(usual if int(worker) < prompt else min(19, usual + PATIENT_NICE))}, nices
        assert folder != "core" or int(worker) < prompt, nices
    assert sum(len(path.read_text().split()) for path in tmp_path.glob("*.gw*")) == 24

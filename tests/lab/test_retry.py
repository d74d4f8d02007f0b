"""Which failures `make test` runs once more, alone."""

import pytest

from lab.suite import may_be_starved


@pytest.mark.parametrize(
    ("where", "how", "again"),
    [
        ("tests.integration.test_page", '<failure message="no button">...</failure>', True),
        ("tests.integration.test_page", '<error message="unclosed transport">...</error>', True),
        (
            "tests.integration.test_page",
            '<error message="failed on teardown">left behind on the engine: x</error>',
            False,
        ),
        ("tests.core.test_tunnels", '<failure message="two leaders">...</failure>', False),
        ("tests.faults.test_nemesis", '<error message="no stage">...</error>', False),
        (
            "tests.faults.test_kills",
            '<failure message="lab.until.NeverCameTrueError: waited 30 s">...</failure>',
            True,
        ),
        (
            "tests.faults.test_kills",
            '<failure message="AssertionError: assert two == one">TimeoutError ...</failure>',
            False,
        ),
    ],
)
def test_only_what_a_busy_machine_may_explain_is_run_again(tmp_path, where, how, again):
    case = f'<testcase classname="{where}" name="test_it">{how}</testcase>'
    fine = '<testcase classname="tests.core.test_units" name="test_fine"/>'
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{fine}{case}</testsuite></testsuites>")
    assert may_be_starved(report) is again

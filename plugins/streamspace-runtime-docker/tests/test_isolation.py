"""What a session can and cannot do, tried from inside."""

import pytest


@pytest.fixture
async def shell(driver, make_spec, quiet, api):
    """Run a command as root in a fresh session; returns its exit code and output."""
    spec = make_spec("-inside", mounts=())
    await driver.start(spec, quiet)

    def run(command):
        made = api.exec_create(f"streamspace-{spec.session_id}", ["sh", "-c", command], user="root")
        output = api.exec_start(made["Id"]).decode()
        return api.exec_inspect(made["Id"])["ExitCode"], output

    return run


async def test_a_session_cannot_reach_another_but_the_host_can(driver, make_spec, quiet, shell):
    other = make_spec("-other", mounts=())
    session = await driver.start(other, quiet)
    code, output = shell(f"nc -w 2 {session.address} 5900 </dev/null")
    assert "RFB" not in output
    assert code != 0
    reader, writer = await driver.connect(other.session_id, 5900)
    assert (await reader.readexactly(12)).startswith(b"RFB")
    writer.close()


async def test_a_session_can_gain_no_privileges(shell):
    _, status = shell("cat /proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"].strip() == "1"
    # CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10
    assert int(fields["CapBnd"], 16) == sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 10))


async def test_a_session_cannot_start_more_processes_than_allowed(make_driver, make_spec, quiet, api):
    driver = make_driver(environ={"SESSION_PIDS_LIMIT": "32"})
    spec = make_spec()
    await driver.start(spec, quiet)
    made = api.exec_create(f"streamspace-{spec.session_id}", ["sh", "-c", "for i in $(seq 40); do sleep 5 & done"])
    assert b"can't fork" in api.exec_start(made["Id"])


async def test_two_sessions_of_a_network_that_is_not_isolated_are_warned_about(
    make_driver, make_spec, quiet, api, run_label, caplog
):
    name = f"{run_label}-open"
    driver = make_driver(network_name=name)
    api.create_network(name, driver="bridge", labels={"streamspace.agent": driver.agent_id})
    await driver.start(make_spec(), quiet)
    assert f"sessions on the network {name} can reach each other" in caplog.text
    problems = await driver.check()
    assert any("can reach each other" in problem.message and not problem.fatal for problem in problems)

"""What `docker-agent check` says of the engine."""


async def test_a_good_engine_gives_no_findings_and_its_facts(make_driver, driver, spec, quiet):
    await driver.start(spec, quiet)
    assert [problem for problem in await driver.check() if "free in the engine's folder" not in problem.message] == []
    facts = await driver.describe()
    assert facts["engine"] == "docker"
    assert facts["engineVersion"]
    assert facts["apiVersion"] >= "1.41"


async def test_a_risky_capability_is_warned_about(make_driver):
    problems = await make_driver(environ={"SESSION_CAPABILITIES": "CHOWN,SYS_ADMIN"}).check()
    assert any("SYS_ADMIN" in problem.message and not problem.fatal for problem in problems)


async def test_checking_changes_nothing(make_driver, run_label, api):
    name = f"{run_label}-unmade"
    await make_driver(network_name=name).check()
    assert api.networks(names=[name]) == []

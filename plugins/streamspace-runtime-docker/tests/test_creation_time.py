"""When a session was made, where the wall clock was wrong then or is wrong now."""

import functools
import time

import pytest

from streamspace_runtime_docker.containers.creation_time import CreationTimes
from streamspace_runtime_docker.containers.info import ContainerInfo

YEARS = 10 * 365 * 86400.0


async def test_a_session_that_was_made_by_a_clock_years_behind_is_as_old_as_it_is(
    make_driver, spec, quiet, monkeypatch
):
    driver = make_driver()
    session = await driver.start(spec, quiet)
    assert session.created_at == pytest.approx(time.time(), abs=60)
    set_right = functools.partial(CreationTimes, wall=lambda: time.time() + YEARS)
    monkeypatch.setattr("streamspace_runtime_docker.driver.CreationTimes", set_right)
    later = make_driver()
    for found in (await later.inspect(spec.session_id), *await later.sessions()):
        assert time.time() + YEARS - found.created_at == pytest.approx(0, abs=60)


@pytest.mark.parametrize(
    ("labels", "moved"),
    [
        ({"streamspace.boot": "this", "streamspace.uptime": "100.0"}, True),
        ({"streamspace.boot": "another", "streamspace.uptime": "100.0"}, False),
        ({"streamspace.boot": "this", "streamspace.uptime": "nan"}, False),
        ({"streamspace.boot": "this", "streamspace.uptime": "9999.0"}, False),
        ({}, False),
    ],
)
def test_it_is_told_by_the_hosts_uptime_as_long_as_that_lasts_else_as_the_engine_says(tmp_path, labels, moved):
    (tmp_path / "boot").write_text("this\n")
    births = CreationTimes(tmp_path / "boot", uptime=lambda: 150.0, wall=lambda: YEARS)
    found = ContainerInfo("id", "name", labels, "running", "image", 1000.0)
    assert births.created_at(found) == (YEARS - 50 if moved else 1000.0)


def test_clocks_that_agree_are_left_as_the_engine_has_them(tmp_path):
    (tmp_path / "boot").write_text("this")
    births = CreationTimes(tmp_path / "boot", uptime=lambda: 150.0, wall=lambda: YEARS)
    found = ContainerInfo(
        "id",
        "name",
        {"streamspace.boot": "this", "streamspace.uptime": "100.0"},
        "running",
        "image",
        YEARS - 53.25,
    )
    assert births.created_at(found) == YEARS - 53.25

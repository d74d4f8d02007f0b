"""The numbers of a lease: scaled as one set, refused when a lost packet would depose a healthy leader."""

import pytest

from streamspace_agent.config import Settings
from streamspace_agent.election import Timing
from streamspace_agent.election.timing import (
    LEAST_CALL_TIMEOUT,
    LEAST_MARGIN,
    check,
    lease_duration_warnings,
    profile_of,
    scaled,
)
from streamspace_agent.errors import ConfigError

REDIS = Timing(lease=5.0, renew_every=1.0, call_timeout=0.4, margin=0.5)
SWARM = Timing(lease=10.0, renew_every=2.5, call_timeout=2.0, margin=1.0)
FLOCK = Timing(lease=None, renew_every=1.0, call_timeout=1.0, margin=0.0)


def test_without_settings_the_defaults_stand():
    assert scaled(REDIS, None, "fast") == REDIS


def test_a_lease_duration_scales_the_whole_set():
    assert scaled(REDIS, 20.0, "fast") == Timing(lease=20.0, renew_every=4.0, call_timeout=1.6, margin=2.0)


def test_the_steady_profile_lasts_between_15_and_30_seconds_for_both_stores():
    assert scaled(REDIS, None, "steady").lease == 15.0
    assert scaled(SWARM, None, "steady").lease == 30.0


def test_the_steady_profile_renews_as_often_so_that_a_store_may_be_away_for_almost_the_whole_lease():
    steady = scaled(SWARM, None, "steady")
    assert steady == Timing(lease=30.0, renew_every=2.5, call_timeout=6.0, margin=3.0)
    assert check(steady, 2) is steady
    assert check(scaled(REDIS, None, "steady"), 3).renew_every == 1.0


def test_a_lease_duration_beats_the_profile():
    assert scaled(REDIS, 8.0, "steady") == scaled(REDIS, 8.0, "fast")


def test_the_time_for_an_answer_and_the_margin_do_not_shrink_to_nothing():
    tiny = scaled(REDIS, 0.5, "fast")
    assert (tiny.call_timeout, tiny.margin) == (LEAST_CALL_TIMEOUT, LEAST_MARGIN)


def test_a_store_that_ends_leases_by_itself_has_nothing_to_scale():
    assert scaled(FLOCK, 20.0, "steady") == FLOCK
    assert check(FLOCK, 3) == FLOCK


@pytest.mark.parametrize(("defaults", "factor"), [(REDIS, 3), (SWARM, 2)])
@pytest.mark.parametrize("tenths", range(30, 600, 31))
def test_every_lease_of_three_seconds_and_more_is_safe(defaults, factor, tenths):
    timing = scaled(defaults, tenths / 10, "fast")
    assert check(timing, factor) is timing


@pytest.mark.parametrize(("defaults", "factor"), [(REDIS, 3), (SWARM, 2)])
def test_a_lease_too_short_is_refused_by_name_and_with_the_fix(defaults, factor):
    with pytest.raises(ConfigError, match=r"LEASE_DURATION=1s is unsafe: .* set LEASE_DURATION longer, or unset it$"):
        check(scaled(defaults, 1.0, "fast"), factor)


def test_renewals_that_just_do_not_fit_are_refused():
    timing = Timing(lease=5.0, renew_every=1.0, call_timeout=0.5, margin=0.5)
    assert check(timing, 3) is timing
    with pytest.raises(ConfigError):
        check(Timing(lease=5.0, renew_every=1.0, call_timeout=0.51, margin=0.5), 3)


def test_the_profile_is_read_from_the_environment():
    assert profile_of({}) == profile_of({"LEASE_PROFILE": " "}) == "fast"
    assert profile_of({"LEASE_PROFILE": "Steady"}) == "steady"


def test_an_unknown_profile_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"LEASE_PROFILE is 'turbo': write fast .* or steady"):
        profile_of({"LEASE_PROFILE": "turbo"})


def settings(**more):
    return Settings(agent_id="agent-1", control_plane_url="ws://h", leader_election_backend="x", **more)


@pytest.mark.parametrize(
    ("timing", "words"), [(REDIS, "ignored by LEADER_ELECTION_BACKEND=x, whose lease is 5s"), (FLOCK, "no meaning")]
)
def test_a_lease_duration_that_the_backend_does_not_heed_is_told(timing, words):
    (problem,) = lease_duration_warnings(settings(enable_ha=True, lease_duration="20s"), timing)
    assert words in problem.message
    assert problem.fix == "unset LEASE_DURATION"
    assert not problem.fatal


def test_of_a_lease_duration_that_is_heeded_or_not_set_or_without_ha_nothing_is_told():
    assert lease_duration_warnings(settings(enable_ha=True, lease_duration="5s"), REDIS) == []
    assert lease_duration_warnings(settings(enable_ha=True), REDIS) == []
    assert lease_duration_warnings(settings(enable_ha=True), FLOCK) == []
    assert lease_duration_warnings(settings(lease_duration="20s"), FLOCK) == []

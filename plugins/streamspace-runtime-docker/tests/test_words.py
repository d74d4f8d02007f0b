"""The parts without an engine: explanations, judgements."""

import dataclasses

import pytest

from streamspace_agent.runtime import SessionState
from streamspace_runtime_docker.check import engine_problems
from streamspace_runtime_docker.containers.info import ContainerInfo, timestamp
from streamspace_runtime_docker.containers.stop_marker import StopMarker, judge
from streamspace_runtime_docker.images.pull import explain

EXITED = ContainerInfo("id", "streamspace-s", {}, "exited", "image", 0.0, started_at="2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("manifest for x:9 not found: manifest unknown: manifest unknown", "image_not_found"),
        ("pull access denied for x, repository does not exist or may require 'docker login'", "pull_denied"),
        ("Head https://r/v2/x/manifests/1: no basic auth credentials", "pull_denied"),
        ("Get https://r/v2/: dial tcp: lookup r on 1.1.1.1:53: no such host", "registry_unreachable"),
        ("Get http://r/v2/: dial tcp 127.0.0.1:1: connect: connection refused", "registry_unreachable"),
        ("x509: certificate signed by unknown authority", "registry_unreachable"),
        ("write /var/lib/docker/tmp/x: no space left on device", "disk_full"),
        ("toomanyrequests: You have reached your pull rate limit", "pull_rate_limited"),
        ('error parsing HTTP 429 response body: invalid character: "slow down"', "pull_rate_limited"),
        ("unexpected status from GET request to https://r/v2/: 429 Too Many Requests", "pull_rate_limited"),
        ("received unexpected HTTP status: 429 Too Many Requests", "pull_rate_limited"),
        ("unexpected status code 429", "pull_rate_limited"),
        ("manifest for x:429 not found: manifest unknown", "image_not_found"),
        ("invalid reference format", "invalid_image"),
        ("no matching manifest for linux/arm64 in the manifest list entries", "image_not_found"),
        ("something new", "pull_failed"),
        # What an engine says that keeps its images with containerd.
        (
            (
                'unknown: failed to resolve reference "r/x:9": '
                "unexpected status from HEAD request to http://r/v2/x/manifests/9: 429 Too Many Requests"
            ),
            "pull_rate_limited",
        ),
        (
            (
                'unknown: failed to resolve reference "r/x:9": '
                "unexpected status from HEAD request to http://r/v2/x/manifests/9: 403 Forbidden"
            ),
            "pull_denied",
        ),
        (
            (
                'failed to resolve reference "r/x:9": '
                "pull access denied, repository does not exist or may require authorization: "
                "authorization failed: no basic auth credentials"
            ),
            "pull_denied",
        ),
        ('failed to resolve reference "r/x:9": r/x:9: not found', "image_not_found"),
        ("short read: expected 3002106 bytes but got 1117808: unexpected EOF", "registry_unreachable"),
        (
            (
                'failed to resolve reference "r/x:9": '
                'failed to do request: Head "https://r/v2/x/manifests/9": '
                "tls: first record does not look like a TLS handshake"
            ),
            "registry_unreachable",
        ),
        (
            (
                'failed to resolve reference "r/x:9": '
                'failed to do request: Head "https://r/v2/x/manifests/9": '
                "dial tcp: lookup r on 10.0.0.1:53: no such host"
            ),
            "registry_unreachable",
        ),
    ],
)
def test_a_failed_pull_is_explained(text, code):
    failure = explain("x:9", text)
    assert failure.code == code
    assert failure.message.startswith("cannot pull x:9: ")
    assert text.partition(" response body")[0][:100] in failure.message


@pytest.mark.parametrize(
    ("exit_code", "oom", "mark", "state"),
    [
        (143, False, StopMarker.HIBERNATED, SessionState.HIBERNATED),
        (1, False, StopMarker.HIBERNATED, SessionState.HIBERNATED),
        (0, False, None, SessionState.HIBERNATED),
        (137, False, None, SessionState.HIBERNATED),
        (255, False, None, SessionState.HIBERNATED),
        (0, True, None, SessionState.HIBERNATED),
        (1, False, None, SessionState.FAILED),
        (0, False, StopMarker.ENDED, SessionState.FAILED),
    ],
)
def test_an_exited_container_is_judged_by_its_mark_and_then_its_exit_code(exit_code, oom, mark, state):
    assert judge(dataclasses.replace(EXITED, exit_code=exit_code, oom=oom), mark)[0] is state


@pytest.mark.parametrize(
    ("ended", "state", "words"),
    [
        (True, SessionState.FAILED, "ran out of memory"),
        (False, SessionState.HIBERNATED, "while the engine or the agent was away; wake"),
        (None, SessionState.HIBERNATED, "was away, or it ran out of memory; wake"),
    ],
)
def test_a_killed_container_that_had_too_little_memory_once_died_of_it_only_where_that_is_known(ended, state, words):
    found = dataclasses.replace(EXITED, exit_code=137, oom=True, oom_ended=ended)
    told, reason = judge(found, None)
    assert told is state
    assert words in reason
    assert ("ran out of memory" in judge(found, StopMarker.ENDED)[1]) == (ended is not False)


def test_a_start_that_failed_is_no_end_of_the_session():
    found = dataclasses.replace(EXITED, exit_code=128, error="no space left on device")
    assert judge(found, None)[0] is SessionState.HIBERNATED
    assert judge(found, StopMarker.ENDED)[0] is SessionState.FAILED
    assert judge(dataclasses.replace(EXITED, exit_code=128), None)[0] is SessionState.FAILED


def test_sleep_that_nobody_asked_for_carries_a_reason():
    assert judge(EXITED, StopMarker.HIBERNATED) == (SessionState.HIBERNATED, "")
    assert "while the engine or the agent was away" in judge(EXITED, None)[1]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-23T15:47:35.88037788Z", 1795448855.880377),
        ("2026-11-23T16:47:35+01:00", 1795448855.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
    ],
)
def test_the_engines_times_are_read(text, seconds):
    assert timestamp(text) == pytest.approx(seconds)


def test_limits_that_the_engine_cannot_keep_are_told_with_the_fix_for_rootless():
    info = {"MemoryLimit": False, "PidsLimit": True, "CpuCfsQuota": False, "SecurityOptions": ["name=rootless"]}
    [problem] = engine_problems(info)
    assert "memory, CPU" in problem.message
    assert "Delegate" in problem.fix
    assert not problem.fatal
    assert list(engine_problems({"MemoryLimit": True})) == []

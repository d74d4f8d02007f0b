"""Real replicas on a real server: who acts when, whatever happens to the leader. The times are CLOCK_BOOTTIME."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import redis

from lab.redis import RedisServer

pytestmark = pytest.mark.slow


REPLICA = Path(__file__).parent / "redis_replica.py"


class Replica:
    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(REPLICA), *arguments], stdin=subprocess.PIPE, stdout=out, bufsize=0
            )

    def said(self, word: str) -> list[tuple[int, float]]:
        lines = [line.split() for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [(int(epoch), float(when)) for what, epoch, when in lines if what == word]

    def resign(self) -> None:
        self.process.stdin.close()


@pytest.fixture
def replica(tmp_path):
    made = []

    def start(url: str, docker_host: str = "", container: str = "") -> Replica:
        made.append(Replica(tmp_path / f"{len(made)}.log", url, docker_host, container))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()
        one.process.stdin.close()
    acts = sorted((when, epoch) for one in made for epoch, when in one.said("acts"))
    epochs = [epoch for _, epoch in acts]
    assert epochs == sorted(epochs), "two leaders acted at once"


@pytest.fixture
def server():
    with RedisServer() as server:
        yield server


def wait(condition, timeout: float = 60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def leader_and_standby(replica, url, *more):
    leader = replica(url, *more)
    wait(lambda: leader.said("acts"))
    standby = replica(url, *more[:1])
    wait(lambda: standby.said("ready"))
    time.sleep(1)  # long enough to have looked, and to have seen a renewal
    return leader, standby


def gap(before: Replica, after: Replica) -> float:
    return after.said("acts")[0][1] - before.said("acts")[-1][1]


def test_a_killed_leader_is_followed_after_its_lease_and_not_before(server, replica):
    leader, standby = leader_and_standby(replica, server.url)
    leader.process.kill()
    wait(lambda: standby.said("acts"))
    print(f"gap after SIGKILL: {gap(leader, standby):.2f} s")
    assert gap(leader, standby) > 3.9, "it may have renewed a second before"


def test_a_leader_that_resigns_is_followed_at_once(server, replica):
    leader, standby = leader_and_standby(replica, server.url)
    leader.resign()
    wait(lambda: standby.said("acts"))
    print(f"gap after a release: {gap(leader, standby):.3f} s")
    assert gap(leader, standby) < 2
    assert leader.process.wait(30) == 0


def test_a_leader_frozen_for_two_leases_does_not_act_when_it_is_thawed(server, replica):
    leader, standby = leader_and_standby(replica, server.url)
    os.kill(leader.process.pid, signal.SIGSTOP)
    wait(lambda: standby.said("acts"))
    time.sleep(5)
    os.kill(leader.process.pid, signal.SIGCONT)
    wait(lambda: leader.said("stopped"))
    time.sleep(1)
    assert gap(leader, standby) > 0


@pytest.mark.parametrize("fault", ["flush", "delete", "restart"])
def test_a_store_that_forgets_makes_the_leader_stop_before_anyone_acts(server, replica, fault):
    leader, standby = leader_and_standby(replica, server.url)
    if fault == "restart":
        server.kill()
        server.start()
    else:
        with redis.Redis(port=server.port) as admin:
            admin.flushall() if fault == "flush" else admin.delete(*admin.keys("*record*"))
    wait(lambda: leader.said("stopped"))
    first = leader.said("stopped")[0]
    wait(lambda: any(e > first[0] for one in (leader, standby) for e, _ in one.said("acts")))
    after = min(when for one in (leader, standby) for e, when in one.said("acts") if e > first[0])
    assert after - first[1] > 3


def test_deleting_the_documented_key_changes_nobody(server, replica):
    leader, standby = leader_and_standby(replica, server.url)
    with redis.Redis(port=server.port, decode_responses=True) as admin:
        name = admin.get("streamspace:agent:leader:docker-lab")
        assert admin.delete("streamspace:agent:leader:docker-lab") == 1
        wait(lambda: admin.get("streamspace:agent:leader:docker-lab") == name)
    time.sleep(1)
    assert not leader.said("stopped")
    assert not standby.said("acts")


def test_a_leader_whose_container_died_on_the_same_engine_is_followed_long_before_its_lease_ends(
    server, replica, docker_host, docker_client, run_label, tiny_image
):
    container = docker_client.containers.run(tiny_image, detach=True, name=f"{run_label}-{uuid.uuid4().hex[:6]}")
    try:
        leader, standby = leader_and_standby(replica, server.url, docker_host, container.id)
        leader.process.kill()  # stands for the process in the container
        leader.process.wait()
        container.kill()
        killed = time.clock_gettime(time.CLOCK_BOOTTIME)
        wait(lambda: standby.said("acts"))
        print(f"gap after the container's death: {gap(leader, standby):.2f} s")
        assert standby.said("acts")[0][1] - killed < 2.5
    finally:
        container.remove(force=True)

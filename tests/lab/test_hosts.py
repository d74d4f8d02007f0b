from pathlib import Path

import pytest

from lab import host, process
from lab.hosts import Hosts
from lab.say import LabError

pytestmark = pytest.mark.hosts


def _namespaces_of(folder):
    return list(Path("/var/run/netns").glob(f"{host.link_name(folder)}*"))


def _mounts_below(folder):
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]


def test_three_hosts_form_a_swarm_survive_a_cut_and_leave_nothing_behind(tmp_path_factory):
    folder = tmp_path_factory.mktemp("h")
    with Hosts(3, folder) as hosts:
        assert len(_namespaces_of(folder)) == 4  # the switch has one too
        hosts.swarm()
        pids = [each.engine.pid for each in hosts.all]
        clients = [each.client() for each in hosts.all]
        try:
            assert [client.info()["Swarm"]["Managers"] for client in clients] == [3, 3, 3]
            clients[2].configs.create(name="a", data=b"1")
            hosts.slow(hosts[1], 256)
            hosts.cut(hosts[2])
            clients[0].configs.create(name="b", data=b"1")  # two of three are enough
            hosts.heal(hosts[2])
            hosts.slow(hosts[1], 0)
            hosts.kill(hosts[0])
            assert hosts[0].engine.pid is None
        finally:
            for client in clients:
                client.close()
    assert not _namespaces_of(folder)
    assert not any(process.alive(pid) for pid in pids)
    assert not _mounts_below(folder)
    assert not folder.exists()


def test_a_failed_start_leaves_nothing_behind(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("h")
    hosts = Hosts(2, folder)

    def broken():
        raise LabError("no engine today")

    monkeypatch.setattr(hosts[1].engine, "start", broken)
    with pytest.raises(LabError, match="no engine today"), hosts:
        pass
    assert not _namespaces_of(folder)
    assert not _mounts_below(folder)
    assert not folder.exists()

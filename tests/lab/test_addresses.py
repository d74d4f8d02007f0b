"""Which addresses a private engine takes, beside others that are up, down, or dead."""

import ipaddress
import subprocess
import sys

import pytest

from lab import host
from lab.say import LabError


@pytest.mark.timeout(300)
def test_engines_that_come_and_go_never_have_addresses_in_common(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a")  # short, for sockets
    script = f"ip link set lo up && exec {sys.executable} -m tests.lab.engines_and_addresses {folder}"
    subprocess.run(["unshare", "--net", "sh", "-c", script], check=True)


def test_a_folder_gets_the_same_block_each_time_and_another_one_where_that_is_taken(tmp_path):
    first = host.free_block(tmp_path, [])
    assert host.free_block(tmp_path, []) == first
    assert not host.free_block(tmp_path, [next(first.subnets(new_prefix=24))]).overlaps(first)
    assert len({host.free_block(tmp_path / str(number), []) for number in range(30)}) > 10


def test_with_every_block_taken_one_line_says_so(tmp_path):
    with pytest.raises(LabError, match=r"no free /16"):
        host.free_block(tmp_path, [ipaddress.IPv4Network("10.0.0.0/8")])

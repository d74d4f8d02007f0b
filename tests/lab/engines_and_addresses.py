"""Run by test_addresses.py in a network namespace of its own: engines that come and go never have addresses in
common."""

import ipaddress
import itertools
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker

from lab import host
from lab.dockerd import PrivateEngine, answers

folder = Path(sys.argv[1])
engines = {name: PrivateEngine(folder / name) for name in "abcde"}


def block(name):
    return (folder / name / "addresses").read_text().strip()


def wants(name, text):
    (folder / name).mkdir()
    (folder / name / "addresses").write_text(f"{text}\n")


def make_network(name):
    client = docker.APIClient(base_url=engines[name].host, version="auto")
    try:
        client.create_network(f"of-{name}", driver="bridge")
        return next(n["IPAM"]["Config"][0]["Subnet"] for n in client.networks() if n["Name"] == f"of-{name}")
    finally:
        client.close()


def networks(name):
    client = docker.APIClient(base_url=engines[name].host, version="auto")
    try:
        return {n["Name"] for n in client.networks()}
    finally:
        client.close()


def nothing_overlaps():
    shown = json.loads(host.ip("-json", "-4", "address", "show"))
    used = [ipaddress.IPv4Interface(f"{a['local']}/{a['prefixlen']}").network for i in shown for a in i["addr_info"]]
    assert not [pair for pair in itertools.combinations(used, 2) if pair[0].overlaps(pair[1])], shown


try:
    a, b = engines["a"], engines["b"]
    a.start()
    first = block("a")
    kept = make_network("a")
    assert ipaddress.IPv4Network(kept).subnet_of(ipaddress.IPv4Network(first))
    a.restart()
    assert block("a") == first
    assert "of-a" in networks("a"), "a restart keeps addresses and networks"
    a.kill()
    a.start()
    assert block("a") == first, "what it left behind itself is no clash"
    assert "of-a" in networks("a")

    a.stop()  # its networks' bridges stay, as dockerd leaves them
    for link in host.links():
        if link.startswith("br-"):
            host.delete_link(link)
    wants("b", first)
    b.start()
    assert block("b") == first, "nobody had it at that moment"
    make_network("b")
    a.start()
    assert answers(a.host)
    assert block("a") != first, "somebody took it while it was down"
    assert ipaddress.IPv4Network(make_network("a")).subnet_of(ipaddress.IPv4Network(block("a")))
    nothing_overlaps()

    b.kill()  # its links stay, and are somebody's
    host.ip("link", "set", b.bridge, "down")  # without a route
    wants("c", first)
    engines["c"].start()
    assert block("c") not in {first, block("a")}
    nothing_overlaps()

    free = str(host.free_block(folder, host.in_use()))
    wants("d", free)
    wants("e", free)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: engines[name].start(), "de"))
    assert len({block(name) for name in "acde"} | {first}) == 5, "also where two start at once"
    nothing_overlaps()
finally:
    for engine in engines.values():
        if engine.directory.exists():
            engine.destroy()

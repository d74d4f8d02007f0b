import time

import docker
import pytest
import requests

from lab.registry import Registry


@pytest.fixture(scope="module")
def registry():
    with Registry(credentials=("puller", "s3cret")) as registry:
        yield registry


@pytest.fixture
def image(registry, docker_host, tiny_image):
    registry.proxy.rate = None
    return registry.push_generated(docker_host, megabytes=6, layers=2)


def test_a_throttled_pull_shows_progress_and_ends(registry, image, docker_client):
    registry.proxy.rate, before = 3_000_000, registry.proxy.replied
    seen = list(docker_client.api.pull(image, stream=True, decode=True, auth_config=registry.auth))
    try:
        downloading = [line["progressDetail"] for line in seen if line.get("status") == "Downloading"]
        assert any(0 < detail["current"] < detail["total"] for detail in downloading if "total" in detail)
        assert registry.proxy.replied - before > 6_000_000
    finally:
        docker_client.images.remove(image, force=True)


def test_nothing_passes_while_the_proxy_stalls_and_the_pull_ends_after(registry, image, docker_client):
    registry.proxy.rate = 3_000_000
    pull = docker_client.api.pull(image, stream=True, decode=True, auth_config=registry.auth)
    while next(pull).get("status") != "Downloading":
        pass
    registry.proxy.stalled = True
    time.sleep(0.3)  # what was on its way passes
    before = registry.proxy.replied
    time.sleep(0.5)
    during = registry.proxy.replied
    registry.proxy.stalled = False
    assert not [line for line in pull if "error" in line]
    docker_client.images.remove(image, force=True)
    assert before == during < registry.proxy.replied


def test_a_pull_without_credentials_is_refused(image, docker_client):
    with pytest.raises(docker.errors.APIError, match="no basic auth credentials"):
        docker_client.api.pull(image)


def test_a_cut_connection_and_a_refusing_registry_are_errors_to_its_client(registry, image):
    url = f"http://{registry.address}/v2/"
    with requests.Session() as client:
        assert client.get(url, timeout=5).status_code == 401
        registry.proxy.refusing = True
        registry.proxy.cut()
        try:
            with pytest.raises(requests.exceptions.ConnectionError):
                client.get(url, timeout=5)
        finally:
            registry.proxy.refusing = False
        assert client.get(url, timeout=5).status_code == 401

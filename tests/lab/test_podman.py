import socket
import time

import docker

from lab.podman import Podman


def test_podman_runs_an_image_of_the_docker_engine_and_leaves_nothing(docker_host, tiny_image, tmp_path_factory):
    with Podman(tmp_path_factory.mktemp("p")) as podman:
        image = podman.load(tiny_image, docker_host)
        client = docker.DockerClient(base_url=podman.host)
        try:
            container = client.containers.run(image, detach=True, ports={"5900/tcp": ("127.0.0.1", None)})
            podman.stop()
            podman.start()
            container.reload()
            assert container.status == "running"
            networks = container.attrs["NetworkSettings"]["Networks"]
            address = next(iter(networks.values()))["IPAddress"]
            for _ in range(100):
                try:
                    connection = socket.create_connection((address, 5900), timeout=5)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            with connection:
                assert connection.recv(4) == b"RFB "
        finally:
            client.close()
    assert not podman.folder.exists()

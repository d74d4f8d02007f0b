import socket
import time

import pytest
from docker.types import Mount


@pytest.fixture
def session(docker_client):
    """Start a container with the limits that the agent sets; returns it with a function that connects to it."""
    started = []

    def start(image, **options):
        container = docker_client.containers.run(
            image,
            detach=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mem_limit=options.pop("mem_limit", "512m"),
            **options,
        )
        started.append(container)
        container.reload()
        return container

    yield start
    for container in started:
        container.remove(force=True, v=True)


def connect(container, port=5900, timeout=20.0):
    container.reload()
    address = container.attrs["NetworkSettings"]["IPAddress"]
    deadline = time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection((address, port), timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def read(connection, size):
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def test_the_desktop_greets_and_answers_a_vnc_client(session, desktop_image):
    container = session(desktop_image, environment={"GEOMETRY": "1024x600"})
    with connect(container) as vnc:
        assert read(vnc, 12) == b"RFB 003.008\n"
        vnc.sendall(b"RFB 003.008\n")
        assert read(vnc, 2) == b"\x01\x01"  # one security type: none
        vnc.sendall(b"\x01")
        assert read(vnc, 4) == bytes(4)
        vnc.sendall(b"\x01")  # shared
        width, height = (int.from_bytes(read(vnc, 2)) for _ in "wh")
    assert (width, height) == (1024, 600)


def test_the_desktop_stops_promptly_and_starts_again(session, desktop_image):
    container = session(desktop_image)
    for _ in range(2):
        with connect(container) as vnc:
            assert read(vnc, 4) == b"RFB "
        container.stop(timeout=60)
        assert container.wait()["StatusCode"] == 0
        container.start()
    container.kill()
    container.wait()
    container.start()  # over the lock file that a hard stop left
    with connect(container) as vnc:
        assert read(vnc, 4) == b"RFB "


def test_the_desktops_home_belongs_to_its_unprivileged_user(session, desktop_image):
    container = session(desktop_image, mounts=[Mount("/home/user", None)])  # a new volume, removed with the container
    code, output = container.exec_run(["sh", "-c", "id -u; touch /home/user/x && stat -c %u /home/user"])
    assert (code, output.split()) == (0, [b"1000", b"1000"])


def test_the_tiny_image_greets_and_echoes(session, tiny_image):
    with connect(session(tiny_image)) as vnc:
        assert read(vnc, 12) == b"RFB 003.008\n"
        vnc.sendall(bytes(range(256)))
        assert read(vnc, 256) == bytes(range(256))


def test_the_tiny_image_blasts_as_many_megabytes_as_asked(session, tiny_image):
    with connect(session(tiny_image, environment={"MODE": "blast", "MEGABYTES": "4"})) as vnc:
        assert len(read(vnc, 12 + 5 * 2**20)) == 12 + 4 * 2**20


def test_the_tiny_image_answers_http(session, tiny_image):
    with connect(session(tiny_image, environment={"MODE": "http", "PORT": "8080"}), 8080) as http:
        http.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in read(http, 40)


def test_the_tiny_image_crashes_with_words_and_a_code(session, tiny_image):
    container = session(tiny_image, environment={"MODE": "crash", "AFTER": "0", "EXIT_CODE": "7"})
    assert container.wait()["StatusCode"] == 7
    assert b"giving up" in container.logs(stdout=False)


def test_the_tiny_image_runs_out_of_memory(session, tiny_image):
    container = session(tiny_image, environment={"MODE": "oom", "AFTER": "0"}, mem_limit="32m")
    assert container.wait()["StatusCode"] == 137
    container.reload()
    assert container.attrs["State"]["OOMKilled"]


def test_the_tiny_image_hangs_without_a_port_and_still_stops(session, tiny_image):
    container = session(tiny_image, environment={"MODE": "hang"})
    with pytest.raises(ConnectionRefusedError):
        connect(container, timeout=1)
    container.stop(timeout=60)
    assert container.wait()["StatusCode"] == 0


def test_the_stubborn_tiny_image_has_to_be_killed(session, tiny_image):
    container = session(tiny_image, environment={"MODE": "stubborn"})
    connect(container).close()
    container.stop(timeout=1)
    assert container.wait()["StatusCode"] == 137

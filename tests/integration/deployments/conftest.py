import asyncio
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import docker
import pytest
from pytest_docker.plugin import get_docker_services

from lab import agent_image, apt, binary, process
from lab import compose as compose_v2
from lab.dockerd import PrivateEngine
from lab.images import Images
from tests.integration.deployments import readme
from tests.integration.deployments.compose import FOLDER, Compose, call, remove_project
from tests.integration.deployments.systemd_host import DEPLOYMENTS_THERE, UNITS, SystemdHost

DEPLOYMENTS = Path(__file__).resolve().parents[3] / "deployments"


@pytest.fixture(scope="module", autouse=True)
def commands_are_noted(request):
    """Which commands of the README this module's tests were handed; what is run once more alone adds to the run
    before."""
    cache, name = request.config.cache, f"readme/{request.module.__name__}"
    readme.handed_out.clear()
    readme.handed_out.update(cache.get(name, []) if request.config.option.lf else [])
    yield
    cache.set(name, sorted(readme.handed_out))


@pytest.fixture(scope="session")
def built_image(engine, docker_host):
    """The agent's image, of this very checkout."""
    with Images(docker_host, engine.state) as images:
        return agent_image.ensure(images)


@pytest.fixture(scope="session")
def redis_image(engine, docker_host):
    with Images(docker_host, engine.state) as images:
        return images.ensure("redis")


@pytest.fixture
async def key(plane, agent_id):
    return await plane.issue_key(agent_id)


@pytest.fixture
def hand_over(tmp_path):
    """Put a secret where the documented commands put it, but for the folder: `hand_over("key", text)` returns its path
    inside."""
    folder = tmp_path / "etc-streamspace"
    folder.mkdir()

    def hand_over(name, text):
        (tmp_path / name).write_text(text)
        line = readme.command("install", f"/etc/streamspace/{name}").replace("/etc/streamspace", str(folder))
        line = re.sub(r"\b[A-Z]+FILE\b", str(tmp_path / name), line)
        subprocess.run(["sh", "-ec", line.removeprefix("sudo ") if os.geteuid() == 0 else line], check=True)
        (tmp_path / name).unlink()
        return f"/etc/streamspace/{name}"

    hand_over.folder = folder
    return hand_over


@pytest.fixture
def exported(plane, docker_host, agent_id, built_image, key, hand_over):
    """What an operator exports, and what tells the files where this machine's engine and images are."""
    return {
        "AGENT_ID": agent_id,
        "CONTROL_PLANE_URL": plane.ws_url.replace("127.0.0.1", "localhost"),
        "AGENT_API_KEY_FILE": hand_over("key", key),
        "NETWORK_NAME": f"{agent_id}-net",
        "AGENT_IMAGE": built_image,
        "DOCKER_SOCKET": docker_host.removeprefix("unix://"),
        "STREAMSPACE_CONFIG": str(hand_over.folder),
    }


@pytest.fixture
def file():
    """The Compose file that pytest-docker brings up; a test may name another by parametrization."""
    return "docker-compose.standalone.yaml"


@pytest.fixture
def version():
    return "v1"


@pytest.fixture
def variables():
    """What an operator exports besides."""
    return {}


@pytest.fixture
def docker_compose_file(file):
    return str(FOLDER / file)


@pytest.fixture
def docker_compose_command(shell, engine, version, variables):
    environ = [f"{name}={value}" for name, value in (shell | variables).items()]
    return shlex.join(["env", "-i", *environ, *program(engine, version)])


@pytest.fixture
def docker_setup(file):
    """The arguments of the README's own line."""
    return [readme.command(f"-f {file} up").partition(f"-f {file} ")[2]]


@pytest.fixture
def docker_cleanup():
    return ["down --volumes --timeout 20"]


@pytest.fixture
def docker_compose_project_name(request, agent_id, docker_host, swept):
    """Leaves nothing of the project behind: pytest-docker itself takes nothing down when its `up` has failed."""
    name = f"{agent_id}-docker"
    yield name
    left = remove_project(docker_host, name)
    assert not left or "docker_services" not in request.node.funcargs, f"`down` left {left}"


@pytest.fixture
def docker_services(
    docker_compose_command, docker_compose_file, docker_compose_project_name, docker_setup, docker_cleanup
):
    """As pytest-docker's own, which lasts as long as `--container-scope` says, for one test."""
    given = docker_compose_command, docker_compose_file, docker_compose_project_name, docker_setup, docker_cleanup
    with get_docker_services(*given) as services:
        yield services


@pytest.fixture
def project(docker_services, docker_compose_project_name, shell, engine, file, version, variables):
    """What pytest-docker has brought up."""
    project = Compose(file, docker_compose_project_name, shell | variables, program(engine, version))
    with contextlib.closing(project):
        yield project


@pytest.fixture
def shell(exported, docker_host):
    """The environment of an operator's shell."""
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**environ, "DOCKER_HOST": docker_host, **exported}


def program(engine, version):
    if version == "v1":
        apt.require("docker-compose")
        return ["docker-compose"]
    return compose_v2.command(engine.state)


@pytest.fixture
async def compose(shell, engine, agent_id, swept):
    """`compose("docker-compose.standalone.yaml", version, AGENT_ID=...)`: a project that the test itself brings up, to
    see how that fails or to do it by other commands. Each is taken down at the end, volumes too.
    """
    made = []

    def make(file, version="v1", **more):
        made.append(Compose(file, f"{agent_id}-{len(made)}", shell | more, program(engine, version)))
        return made[-1]

    yield make
    async with contextlib.AsyncExitStack() as ends:  # each of them, whatever another's end says
        for project in made:
            ends.push_async_callback(taken_down, project)


async def taken_down(project):
    await project.down()
    assert await asyncio.to_thread(project.leftovers) == []


@pytest.fixture(scope="session")
def systemd_image(engine, docker_host):
    with Images(docker_host, engine.state) as images:
        return images.ensure("systemd")


@pytest.fixture(scope="session")
def one_file(engine):
    """What `make binary` makes."""
    return binary.ensure(engine.state, (3, 11))  # the Python of Debian's bookworm


@pytest.fixture(scope="session")
def boot(docker_host, systemd_image, one_file, run_label):
    """`boot("name")`: a host with a checkout, the binary made, from where the README's commands are run."""
    hosts = {}

    def boot(name):
        if name not in hosts:
            hosts[name] = host = SystemdHost(docker_host, systemd_image, f"{run_label}-booted-{name}")
            host.put_folder(UNITS, f"{DEPLOYMENTS_THERE}/systemd")
            host.put(f"{DEPLOYMENTS_THERE}/../dist/docker-agent", one_file.read_bytes(), 0o755)
            host.run("set -e; useradd -G docker member; useradd guest; useradd admin")
            host.put("/etc/sudoers.d/admin", b"admin ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        return hosts[name]

    yield boot
    for host in hosts.values():
        host.close()


@pytest.fixture
def host(boot, swept):
    """The booted host with nothing installed."""
    yield boot("host")
    uninstall(boot("host"))


@pytest.fixture
def other_host(boot, swept):
    """Another one beside it, on the same network and engine."""
    yield boot("other")
    uninstall(boot("other"))


def uninstall(host):
    host.ask("systemctl stop 'docker-agent*'")
    host.run(
        "systemctl reset-failed; rm -rf"
        " /etc/systemd/system/docker-agent* /etc/systemd/system/*/docker-agent* /etc/streamspace"
        " /etc/credstore /run/streamspace /var/lib/streamspace /var/lib/private/streamspace /usr/local/bin/docker-agent"
        f" {DEPLOYMENTS_THERE}/docker-agent"
    )
    host.run("systemctl daemon-reload; journalctl --rotate --vacuum-time=1s")


@pytest.fixture(scope="session")
def swarm_engine(docker_host, built_image, tiny_image):
    """An engine of its own, on this machine's network: the main one is not to become a Swarm."""
    folder = Path(tempfile.mkdtemp(prefix="streamspace-"))
    engine = PrivateEngine(folder / "e")
    try:
        engine.start()
        for image in (built_image, tiny_image):
            engine.load(image, docker_host)
        yield engine
    finally:
        if engine.directory.exists():
            engine.destroy()
        shutil.rmtree(folder)


@pytest.fixture
async def swarm(swarm_engine, exported, tmp_path):
    """Run a documented command, from deployments/, on a manager that has the agent's key; all is gone afterwards."""
    environ = {**exported, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "DOCKER_HOST": swarm_engine.host}
    environ |= {"DOCKER_SOCKET": str(swarm_engine.socket), "HOME": str(tmp_path)}

    async def run(command, **more):
        return await call("sh", "-c", command, environ={**environ, **more}, cwd=DEPLOYMENTS)

    run.environ = environ
    address = f"--advertise-addr 127.0.0.1 --listen-addr 127.0.0.1:{process.free_port()}"
    await run(f"{readme.command('docker swarm init')} {address}")
    yield run
    await run("docker stack rm streamspace-agent || true; docker swarm leave --force")


@pytest.fixture
def manager(swarm_engine):
    client = docker.DockerClient(base_url=swarm_engine.host)
    yield client
    client.close()

"""``docker-agent healthcheck``, which a container runs every few seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from streamspace_agent.health.replicas import Replica, replicas
from streamspace_agent.logs import redact


def quick(arguments: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """What ``healthcheck`` prints if all is well; None for whatever else, which the whole command line then answers.

    Does without click and the model of the settings: these cost four times as much as the rest, and in a standby's
    container more than the standby.
    """
    agent_id, state_dir = (environ.get(name, "").strip() for name in ("AGENT_ID", "STATE_DIR"))
    if [*arguments] not in (["healthcheck"], ["healthcheck", "--ready"]) or not agent_id or not state_dir:
        return None
    healthy, text = ask(Path(state_dir, agent_id), ready="--ready" in arguments)
    return text if healthy else None


def ask(agent_dir: Path, *, ready: bool) -> tuple[bool, str]:
    """Whether the replicas in this PID namespace are alive (with ``ready``: ready), and one line that says so."""
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    healthy, text = verdict(list(replicas(agent_dir)), namespace, ready=ready)
    return healthy, redact(text)


def verdict(found: list[Replica], namespace: int, *, ready: bool) -> tuple[bool, str]:
    """Whether all replicas in a PID namespace are alive (with ``ready``: ready), and one line that says so."""
    own = [r.document for r in found if r.document and r.document.get("pid_namespace") == namespace]
    if not own:
        frozen = [f"{replica.name} {replica.error}" for replica in found if replica.document is None]
        return False, "no agent answers in this container" + (f": {'; '.join(frozen)}" if frozen else "")
    healthy = all(document.get("ready" if ready else "alive") for document in own)
    texts = (f"{d.get('instance')} {d.get('role')}: {'; '.join(d.get('problems', [])) or 'ready'}" for d in own)
    return healthy, ", ".join(texts)

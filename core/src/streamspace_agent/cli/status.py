"""The output of ``docker-agent status``."""

from collections.abc import Iterator

from streamspace_agent.health.replicas import Replica


def table(found: list[Replica]) -> Iterator[str]:
    """A table for people: one line for each replica, with its problems below it."""
    width = max(8, *(len(replica.name) for replica in found))
    served = max(6, *(len(_served(replica)) for replica in found))
    yield f"{'INSTANCE':<{width}}  {'ROLE':<8}  {'EPOCH':<14}  {'LINK':<5}  {'HEALTH':<{served}}  SESSIONS"
    for replica in found:
        if replica.document is None:
            yield f"{replica.name:<{width}}  {replica.error}"
            continue
        document = replica.document
        sessions = ", ".join(f"{count} {state}" for state, count in document.get("sessions", {}).items() if count)
        linked = "up" if document.get("link", {}).get("connected") else "-"
        epoch = document.get("epoch") or "-"
        role, at = document.get("role", "?"), _served(replica)
        yield f"{replica.name:<{width}}  {role:<8}  {epoch:<14}  {linked:<5}  {at:<{served}}  {sessions or '-'}"
        for problem in document.get("problems", []):
            yield f"{'':{width}}  ! {problem}"
    leaders = {r.document["leader"] for r in found if r.document and r.document.get("leader")}
    if elsewhere := sorted(leader for leader in leaders if not any(replica.called(leader) for replica in found)):
        yield f"leads from another host: {', '.join(elsewhere)}"


def _served(replica: Replica) -> str:
    """The address of its HTTP endpoint."""
    return (replica.document or {}).get("health_address") or "-"

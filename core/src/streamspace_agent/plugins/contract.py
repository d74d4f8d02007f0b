"""The contract: everything that a plugin may import from this distribution, by module.

These names keep their path and meaning within a minor version. Everything else may change with any release. A test
checks that each name exists and has a docstring, and that the plugins of this repository import nothing else.
"""

from collections.abc import Mapping

_NAMES = {
    "streamspace_agent": "hookimpl",
    "streamspace_agent.config": "Bytes Duration Settings explain secret",
    "streamspace_agent.errors": """
        AgentError BackendUnavailable CommandFailed ConfigError EngineUnavailable Injected LeaseLost PreflightError
        RuntimeDriverError SessionNotFound""",
    "streamspace_agent.logs": "bind hide",
    # election backends
    "streamspace_agent.election": "Candidate ElectionBackend Grant Guarantee Held Problem Record Timing",
    "streamspace_agent.election.certificate": "Certificates",
    "streamspace_agent.election.engine_socket": "EngineSocket",
    "streamspace_agent.election.identity": "container_id",
    "streamspace_agent.election.timing": "check profile_of scaled",
    # runtime drivers
    "streamspace_agent.runtime": """
        Capabilities EventKind Leftover Mount Port Progress ReadyCheck Report RuntimeDriver RuntimeEvent Session
        SessionSpec SessionState""",
    "streamspace_agent.runtime.readiness": "Proof Stream wait_ready",
    # commands
    "streamspace_agent.commands": "Command Context Handler Register",
    # web gateways
    "streamspace_agent.gateway": "DOMAIN Gateway GatewayContext GatewayStatus",
    "streamspace_agent.tunnel.rfb": "VERSION ClientActivity ClientStream",
    # small helpers that plugins share with the core
    "streamspace_agent.addresses": "Network listening networks shown source",
    "streamspace_agent.backoff": "Backoff",
    "streamspace_agent.faults": "Faults",
    "streamspace_agent.private": "foreign open_private",
    "streamspace_agent.units": "format_bytes format_seconds parse_duration parse_quantity",
    # tests of plugins; with the extra "testing"
    "streamspace_agent.testing.commands": "CommandKit",
    "streamspace_agent.testing.election": "BackendFactory ElectionBackendSuite Outage",
    "streamspace_agent.testing.engine": "MemoryDriver MemoryEngine",
    "streamspace_agent.testing.memory": "MemoryBackend Store",
    "streamspace_agent.testing.runtime": "Behaviour DataOf DriverFactory MakeSpec RuntimeDriverSuite",
}
CONTRACT: Mapping[str, tuple[str, ...]] = {module: tuple(names.split()) for module, names in _NAMES.items()}

FORMER_PATHS: Mapping[str, str] = {
    "streamspace_agent.readiness": "streamspace_agent.runtime.readiness",
    "streamspace_agent.timing": "streamspace_agent.election.timing",
}
"""Modules that moved, with their new paths. The old paths still work."""

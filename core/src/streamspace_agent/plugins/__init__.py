"""Finds, chooses and loads plugins.

Choosing reads metadata only: just the chosen plugin is imported. Pluggy's own entry-point loader is not used, because
it imports every plugin of a group and silently drops the second of two with the same name.
"""

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import TypeVar, cast

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from streamspace_agent import __version__
from streamspace_agent.commands import Registry
from streamspace_agent.config import Settings
from streamspace_agent.election import ElectionBackend
from streamspace_agent.errors import AgentError, PluginError
from streamspace_agent.gateway import Gateway
from streamspace_agent.plugins import hookspecs
from streamspace_agent.runtime import RuntimeDriver

log = logging.getLogger(__name__)

CORE = "streamspace-agent"
Product = TypeVar("Product", ElectionBackend, RuntimeDriver, Gateway)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of plugin: its hook and the variable that chooses one.

    ``ours`` maps the names of this project's plugins to the distributions to install beside the core. ``instead`` says
    what to set instead of a name that people expect. ``only`` is the plugin's name if the variable does not name it.
    """

    name: str
    hook: str
    variable: str = ""
    ours: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    instead: Mapping[str, str] = field(default_factory=dict, hash=False)
    only: str = ""

    @property
    def group(self) -> str:
        """The group of its entry points."""
        return f"streamspace_agent.{self.name}"

    def wish(self, name: str) -> str:
        """What an operator set to get the plugin."""
        return f"the {self.name} plugin for {self.variable}" if self.only else f"{self.variable}={name}"


ELECTION = Kind(
    "election",
    "create_election_backend",
    "LEADER_ELECTION_BACKEND",
    {
        "file": ("streamspace-elect-file",),
        "redis": ("streamspace-elect-redis",),
        "swarm": ("streamspace-engine", "streamspace-elect-swarm"),
    },
)
RUNTIME = Kind(
    "runtime",
    "create_runtime_driver",
    "RUNTIME_DRIVER",
    {"docker": ("streamspace-engine", "streamspace-runtime-docker")},
    {"podman": "set RUNTIME_DRIVER=docker, and DOCKER_HOST to Podman's socket, such as unix:///run/podman/podman.sock"},
)
COMMANDS = Kind("commands", "register_commands")
GATEWAY = Kind("gateway", "create_gateway", "WEB_GATEWAY", {"gateway": ("streamspace-gateway",)}, only="gateway")
KINDS = (ELECTION, RUNTIME, COMMANDS, GATEWAY)


@dataclass(frozen=True, slots=True)
class Found:
    """An installed plugin, as described by its metadata. ``problem`` says why it cannot be used, "" if it can."""

    kind: Kind
    name: str
    distribution: str
    version: str
    entry: metadata.EntryPoint
    problem: str = ""

    @property
    def label(self) -> str:
        return f"{self.kind.name} plugin {self.name} of {self.distribution} {self.version}"


def installed(kind: Kind, entries: Iterable[metadata.EntryPoint] | None = None) -> list[Found]:
    """The installed plugins of a kind, sorted by name. Imports none of them. ``entries`` are those of its group."""
    found: dict[tuple[str, str, str], Found] = {}
    for entry in metadata.entry_points(group=kind.group) if entries is None else entries:
        dist = entry.dist
        name, version = (dist.name, dist.version) if dist else ("unknown", "unknown")
        # A distribution that is installed both editable and as a wheel is listed twice, but is one plugin.
        found[entry.name, canonicalize_name(name), entry.value] = Found(
            kind, entry.name, name, version, entry, _core_mismatch(dist)
        )
    return sorted(found.values(), key=lambda f: (f.name, f.distribution))


def _core_mismatch(dist: metadata.Distribution | None) -> str:
    for line in (dist.requires or []) if dist else []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if canonicalize_name(requirement.name) != CORE or (requirement.marker and not requirement.marker.evaluate()):
            continue
        if not requirement.specifier.contains(__version__, prereleases=True):
            return f"needs {CORE}{requirement.specifier}, this is {__version__}: install versions that belong together"
    return ""


def choose(kind: Kind, name: str, found: Iterable[Found] | None = None) -> Found:
    """The one plugin of that name. Raises PluginError, whose one line says what to do."""
    candidates = installed(kind) if found is None else list(found)
    matches = [f for f in candidates if f.name == name]
    if not matches:
        raise PluginError(_not_installed(kind, name, sorted({f.name for f in candidates})))
    if len(matches) > 1:
        owners = " and ".join(sorted(f.distribution for f in matches))
        raise PluginError(f"{kind.wish(name)} is offered twice, by {owners}: uninstall one of them")
    if matches[0].problem:
        raise PluginError(f"{kind.wish(name)}: {matches[0].distribution} {matches[0].version} {matches[0].problem}")
    return matches[0]


def _not_installed(kind: Kind, name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, sorted({*names, *kind.ours}), n=1, cutoff=0.6)
    if name in kind.ours:
        fix = _install(kind.ours[name])
    elif name.lower() in kind.instead:
        fix = kind.instead[name.lower()]
    elif near:
        fix = f"did you mean {near[0]}?"
        if near[0] not in names:
            fix += f" {_install(kind.ours[near[0]])}"
    else:
        fix = f"install the distribution that has an entry point {name!r} in the group {kind.group}"
    return f"{kind.wish(name)} is not installed (installed: {', '.join(names) or 'none'}): {fix}"


def _install(distributions: Iterable[str]) -> str:
    """The command that installs distributions from files: an index may have a stranger's under that name."""
    files = " ".join(f"PATH/{name.replace('-', '_')}-*.whl" for name in distributions)
    return f"pip install {files}, from where this agent's wheels are (`make wheels`)"


class Plugins:
    """The loaded plugins of one process, with typed methods for pluggy's untyped hooks."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("streamspace_agent")
        self._manager.add_hookspecs(hookspecs)
        self.chosen: list[Found] = []
        """The plugins that a backend, driver or gateway was made of."""

    @cached_property
    def _select(self) -> Callable[..., Iterable[metadata.EntryPoint]]:
        """Selects from all entry points, looked up once: that reads a file of every installed distribution."""
        return metadata.entry_points().select

    def _choose(self, kind: Kind, name: str) -> Found:
        return choose(kind, name, installed(kind, self._select(group=kind.group)))

    def _load(self, found: Found) -> object:
        """Import a plugin and register it as ``kind:name``. Raises PluginError with the cause in one line."""
        try:
            plugin = found.entry.load()
            self._manager.register(plugin, name=f"{found.kind.name}:{found.name}")
            self._manager.check_pending()
        except AgentError:
            raise
        except Exception as error:
            log.debug("%s plugin %s failed to load", found.kind.name, found.name, exc_info=True)
            cause = " ".join(str(error).split())
            raise PluginError(f"{found.label} failed to load: {type(error).__name__}: {cause}") from error
        return plugin

    def election_backend(self, settings: Settings, environ: Mapping[str, str]) -> ElectionBackend:
        found = self._choose(ELECTION, settings.leader_election_backend)
        return self._made(found, ElectionBackend, settings, environ)  # type: ignore[type-abstract]

    def runtime_driver(self, settings: Settings, environ: Mapping[str, str]) -> RuntimeDriver:
        found = self._choose(RUNTIME, settings.runtime_driver)
        return self._made(found, RuntimeDriver, settings, environ)  # type: ignore[type-abstract]

    def gateway(self, settings: Settings, environ: Mapping[str, str]) -> Gateway:
        found = self._choose(GATEWAY, GATEWAY.only)
        return self._made(found, Gateway, settings, environ)  # type: ignore[type-abstract]

    def commands(self, found: Iterable[Found] | None = None) -> Registry:
        """Load all installed command plugins. Returns the handlers that they registered."""
        registry = Registry()
        for plugin in installed(COMMANDS, self._select(group=COMMANDS.group)) if found is None else found:
            self._call(plugin, register=registry.register_for(plugin.distribution))
        return registry

    def hook_of(self, found: Found) -> Callable[..., object]:
        """Load a plugin. Returns its own implementation of its kind's hook; no other plugin's is called."""
        if found.problem:
            raise PluginError(f"{found.label} {found.problem}")
        hook = found.kind.hook
        plugin = self._load(found)
        callers = [caller for caller in self._manager.get_hookcallers(plugin) or [] if caller.name == hook]
        implementations = [impl for caller in callers for impl in caller.get_hookimpls() if impl.plugin is plugin]
        if len(implementations) != 1:
            raise PluginError(
                f"{found.label} implements {hook} {len(implementations)} times, must be once: "
                "mark one function with @streamspace_agent.hookimpl"
            )
        if inspect.iscoroutinefunction(implementations[0].function):
            raise PluginError(f"{found.label}: {hook} must not be async")
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        return cast("Callable[..., object]", self._manager.subset_hook_caller(hook, others))

    def _call(self, found: Found, **arguments: object) -> object:
        hook = self.hook_of(found)
        try:
            return hook(**arguments)
        except AgentError:
            raise
        except Exception as error:
            log.debug("%s plugin %s failed", found.kind.name, found.name, exc_info=True)
            raise PluginError(f"{found.label} failed: {type(error).__name__}: {error}") from error

    def _made(self, found: Found, kind: type[Product], settings: Settings, environ: Mapping[str, str]) -> Product:
        made = self._call(found, settings=settings, environ=environ)
        if not isinstance(made, kind):
            raise PluginError(f"{found.label} made {type(made).__name__}, must be {kind.__name__}")
        self.chosen.append(found)
        return made


def survey(chosen: Mapping[Kind, str]) -> tuple[list[dict[str, str | bool]], list[str]]:
    """The installed plugins as rows for ``docker-agent plugins``, and the problems of the chosen ones."""
    rows: list[dict[str, str | bool]] = []
    problems: list[str] = []
    select = metadata.entry_points().select
    for kind in KINDS:
        found = installed(kind, select(group=kind.group))
        for plugin in found:
            problem = _problem_with(plugin)
            in_use = plugin.name == chosen.get(kind) or not kind.variable
            facts = {name: getattr(plugin, name) for name in ("name", "distribution", "version")}
            state: dict[str, str | bool] = {"chosen": in_use, "loads": not problem, "problem": problem}
            rows.append({"kind": kind.name, **facts, **state})
            if problem and in_use:
                problems.append(problem)
        if kind in chosen and len([plugin for plugin in found if plugin.name == chosen[kind]]) != 1:
            try:
                choose(kind, chosen[kind], found)
            except PluginError as error:
                problems.append(str(error))
    return rows, problems


def _problem_with(found: Found) -> str:
    """Why an installed plugin cannot be used, "" if it can. Loads it alone; whatever it raises is the answer."""
    try:
        Plugins().hook_of(found)
    except AgentError as error:
        return " ".join(str(error).split())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a module may raise SystemExit when it is imported
        return f"{found.label} failed to load: {type(error).__name__}: {error}"
    return ""

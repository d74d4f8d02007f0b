"""The bodies of API requests, validated."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.requests import Request

from streamspace_devplane.agents.envelopes import NOT_JSON, strict_json
from streamspace_devplane.errors import Unreadable
from streamspace_devplane.store import Row
from streamspace_devplane.templates import Manifest, ManifestForm, in_form

T = TypeVar("T", bound=BaseModel)
LARGEST = 2.0**53  # integers up to here are exact


class Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class StartSession(Body):
    """What to start. The keys of `extra` are added to the finished payload, or replace its own."""

    template: str = "desktop"
    manifest: Any = None
    manifest_form: ManifestForm = "object"
    session_id: str | None = None
    command_id: str | None = None
    agent_id: str | None = None
    user: str = "dev"
    memory: str | None = "2Gi"
    cpu: str | None = "1000m"
    """What the deployed one sends if nobody asks for anything else; `null` leaves them out, which it never does."""
    nested_resources: bool = False
    """Send `resources: {memory, cpu}` instead of the two keys."""
    environment: dict[str, str] | None = None
    persistent_home: bool = False
    idle_timeout: str = ""
    max_session_duration: str = ""
    tags: list[str] = []
    extra: dict[str, Any] = {}

    def payload(self, session_id: str, templates: Mapping[str, Manifest]) -> Row:
        manifest = templates.get(self.template) if self.manifest is None else self.manifest
        if manifest is None:
            raise HTTPException(
                404, f"no template {self.template!r}; there are {', '.join(templates)}, or send a manifest"
            )
        if isinstance(manifest, dict):
            manifest = in_form(manifest, self.manifest_form)
        sizes = {name: value for name, value in (("memory", self.memory), ("cpu", self.cpu)) if value is not None}
        payload: Row = {
            "sessionId": session_id,
            "user": self.user,
            "template": self.template,
            "templateManifest": manifest,
            "persistentHome": self.persistent_home,
            "idleTimeout": self.idle_timeout,
            "maxSessionDuration": self.max_session_duration,
            "tags": self.tags,
            "namespace": "streamspace",
        }
        payload |= {"resources": sizes} if self.nested_resources else sizes
        if self.environment is not None:
            payload["environment"] = self.environment
        return payload | self.extra


class RawCommand(Body):
    action: str
    payload: dict[str, Any] = {}
    command_id: str | None = None


class RawFrame(Body):
    """A text frame for an agent, valid or not."""

    text: str


class RawMessage(Body):
    """An envelope of any type."""

    type: str
    payload: dict[str, Any] = {}


class PlaneFlags(Body):
    nest_agent: bool


class Extra(RootModel[dict[str, Any]]):
    """More keys of a command's payload, such as `deletePVC`."""


async def body_of(model: type[T], request: Request) -> T:
    body = await request.body() or b"{}"
    try:
        strict_json(body)
        return model.model_validate_json(body)
    except Unreadable:
        raise HTTPException(400, NOT_JSON) from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise HTTPException(400, problems) from None


def number(request: Request, name: str, default: float) -> float:
    """A number of the query; finite, and small enough for the database."""
    text = request.query_params.get(name, "")
    try:
        value = float(text or default)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:
        raise HTTPException(400, f"{name} needs a number, not {text!r}")
    return value

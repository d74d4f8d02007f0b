"""Sample templates, the forms in which a template may arrive at an agent, and how its sessions are viewed."""

import base64
import binascii
import json
from typing import Any, Literal, NamedTuple

Manifest = dict[str, Any]

SPECS: dict[str, Manifest] = {
    "desktop": {
        "displayName": "Desktop",
        "description": "A window manager and a terminal over VNC",
        "baseImage": "streamspace/desktop:dev",
        "appType": "desktop",
        "defaultResources": {"requests": {"memory": "256Mi", "cpu": "250m"}, "limits": {"memory": "1Gi", "cpu": "1"}},
        "ports": [{"name": "vnc", "containerPort": 5900, "protocol": "TCP"}],
        "env": [{"name": "GEOMETRY", "value": "1280x800"}],
        "volumeMounts": [{"name": "home", "mountPath": "/home/user"}],
        "vnc": {"enabled": True, "port": 5900, "protocol": "rfb"},
        "capabilities": ["Network", "Clipboard"],
        "tags": ["desktop"],
    },
    "firefox": {
        "displayName": "Firefox",
        "description": "A browser, in the older form of template",
        "baseImage": "lscr.io/linuxserver/firefox:latest",
        "appType": "desktop",
        "defaultResources": {"memory": "2Gi", "cpu": "1000m"},
        "ports": [{"name": "vnc", "containerPort": 3000, "protocol": "TCP"}],
        "env": [{"name": "PUID", "value": "1000"}, {"name": "PGID", "value": "1000"}],
        "volumeMounts": [{"name": "config", "mountPath": "/config"}],
        "kasmvnc": {"enabled": True, "port": 3000},
        "tags": ["browser"],
    },
    "notebook": {
        "displayName": "Notebook",
        "description": "An application that speaks HTTP and has no VNC",
        "baseImage": "jupyter/minimal-notebook:latest",
        "appType": "webapp",
        "defaultResources": {"memory": "512Mi", "cpu": "500m"},
        "ports": [{"name": "http", "containerPort": 8888, "protocol": "TCP"}],
        "env": [],
        "volumeMounts": [{"name": "work", "mountPath": "/home/jovyan/work"}],
        "vnc": {"enabled": False},
        "tags": ["http"],
    },
}
TEMPLATES: dict[str, Manifest] = {
    name: {"apiVersion": "stream.space/v1alpha1", "kind": "Template", "metadata": {"name": name}, "spec": spec}
    for name, spec in SPECS.items()
}

ManifestForm = Literal["object", "json", "base64"]
WEB_PROTOCOLS = frozenset({"http", "https", "ws", "wss", "websocket"})


def in_form(manifest: Manifest, form: ManifestForm) -> Manifest | str:
    """A manifest in one of the three forms in which it may arrive at an agent."""
    if form == "object":
        return manifest
    text = json.dumps(manifest)
    return text if form == "json" else base64.b64encode(text.encode()).decode()


def screen(manifest: Any) -> str:
    """How a session of this template is viewed: `vnc`, `web` (over HTTP, as KasmVNC) or `none`.

    A manifest that cannot be read counts as `vnc`.
    """
    spec = _spec(read_manifest(manifest))
    vnc, kasmvnc = (spec[name] if isinstance(spec.get(name), dict) else None for name in ("vnc", "kasmvnc"))
    if vnc is not None and vnc.get("enabled", True):
        return "web" if str(vnc.get("protocol") or "").lower() in WEB_PROTOCOLS else "vnc"
    if kasmvnc is not None and kasmvnc.get("enabled", True):
        return "web"
    return "vnc" if vnc is None and kasmvnc is None else "none"


def _spec(manifest: Any) -> Manifest:
    spec = manifest.get("spec") if isinstance(manifest, dict) else None
    return spec if isinstance(spec, dict) else {}


class Streaming(NamedTuple):
    protocol: str = "vnc"
    port: int = 5900
    path: str = ""


IMAGES = {
    "linuxserver/": Streaming("selkies", 3000, "/websockify"),  # whatever port it really has
    "kasmweb/": Streaming("selkies", 6901, "/websockify"),
    "guacamole/": Streaming("guacamole", 8080, "/guacamole"),
    "x2go": Streaming("x2go", 22),
}
WEB = frozenset({"selkies", "guacamole", "kasm"})
"""The protocols of web sessions, which a browser reaches through the control plane's proxy."""


def streaming(manifest: Any) -> Streaming:
    """The streaming protocol that the deployed control plane assumes: by the image's name, else by the first port."""
    spec = _spec(manifest)
    image, ports = spec.get("baseImage"), spec.get("ports")
    if not isinstance(image, str):
        return Streaming()
    for part, found in IMAGES.items():
        if part in image.lower():
            return found
    first = ports[0] if isinstance(ports, list) and ports else None
    match first.get("containerPort") if isinstance(first, dict) else None:
        case 3000 | 6901 as port:
            return Streaming("selkies", port, "/websockify")
        case 8080:
            return Streaming("guacamole", 8080, "/guacamole")
    return Streaming()


def read_manifest(text: Any) -> Any:
    """The manifest in any of the forms of `in_form`; `None` if the text is none of them."""
    if not isinstance(text, str):
        return text
    for form in (text, _decoded(text)):
        try:
            return json.loads(form)
        except ValueError:
            continue
    return None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""

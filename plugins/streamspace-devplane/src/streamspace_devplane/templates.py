"""Sample templates, and the forms in which a template may arrive at an agent."""

import base64
import binascii
import json
from typing import Any, Literal

Manifest = dict[str, Any]


def _template(name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": "stream.space/v1alpha1", "kind": "Template", "metadata": {"name": name}, "spec": spec}


TEMPLATES: dict[str, Manifest] = {
    "desktop": _template(
        "desktop",
        {
            "displayName": "Desktop",
            "description": "A window manager and a terminal over VNC",
            "baseImage": "streamspace/desktop:dev",
            "appType": "desktop",
            "defaultResources": {
                "requests": {"memory": "256Mi", "cpu": "250m"},
                "limits": {"memory": "1Gi", "cpu": "1"},
            },
            "ports": [{"name": "vnc", "containerPort": 5900, "protocol": "TCP"}],
            "env": [{"name": "GEOMETRY", "value": "1280x800"}],
            "volumeMounts": [{"name": "home", "mountPath": "/home/user"}],
            "vnc": {"enabled": True, "port": 5900, "protocol": "rfb"},
            "capabilities": ["Network", "Clipboard"],
            "tags": ["desktop"],
        },
    ),
    "firefox": _template(
        "firefox",
        {
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
    ),
    "notebook": _template(
        "notebook",
        {
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
    ),
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
    manifest = read_manifest(manifest)
    spec = manifest.get("spec") if isinstance(manifest, dict) else None
    sections = [spec.get(name) for name in ("vnc", "kasmvnc")] if isinstance(spec, dict) else []
    vnc, kasmvnc = (section if isinstance(section, dict) else None for section in sections or (None, None))
    if vnc is not None and vnc.get("enabled", True):
        return "web" if str(vnc.get("protocol") or "").lower() in WEB_PROTOCOLS else "vnc"
    if kasmvnc is not None and kasmvnc.get("enabled", True):
        return "web"
    return "vnc" if vnc is None and kasmvnc is None else "none"


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

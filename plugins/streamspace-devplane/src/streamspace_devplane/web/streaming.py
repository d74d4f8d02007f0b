"""The streaming protocol that the deployed control plane assumes: by the image's name, else by the first port."""

from typing import Any, NamedTuple

WEB = frozenset({"selkies", "guacamole", "kasm"})
"""The protocols of web sessions, which a browser reaches through the control plane's proxy."""


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


def streaming(manifest: Any) -> Streaming:
    spec = manifest.get("spec") if isinstance(manifest, dict) else None
    image = spec.get("baseImage") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(image, str):
        return Streaming()
    for part, found in IMAGES.items():
        if part in image.lower():
            return found
    ports = spec.get("ports")
    first = ports[0] if isinstance(ports, list) and ports else None
    match first.get("containerPort") if isinstance(first, dict) else None:
        case 3000 | 6901 as port:
            return Streaming("selkies", port, "/websockify")
        case 8080:
            return Streaming("guacamole", 8080, "/guacamole")
    return Streaming()

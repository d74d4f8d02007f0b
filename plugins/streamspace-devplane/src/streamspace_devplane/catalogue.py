"""Reads a folder of template files as the deployed control plane's catalogue sync does.

It decodes each file into known keys of fixed types. Unknown keys vanish, and a value of another type makes the file
invalid: the deployed one skips it silently, this one says why.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from streamspace_devplane.errors import InvalidTemplate
from streamspace_devplane.templates import Manifest

VERSIONS = ("stream.space/v1alpha1", "stream.streamspace.io/v1alpha1")
STR, INT, BOOL, NULL, FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "bool", "null", "float"))
TRUE = ("true", "yes", "on", "y")
FALSE = ("false", "no", "off", "n")
KINDS: dict[type[yaml.Node], str] = {yaml.MappingNode: "a map", yaml.SequenceNode: "a list"}


class Catalogue(dict[str, Manifest]):
    """Templates by name; `refused` has a message for each file that is not a template, which begins with its path."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []


class Loader(yaml.SafeLoader):
    """YAML as Go's yaml.v3 resolves it: `yes` is text, and so is `22:22`."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML declares it so


for _tag, _pattern, _first in (
    (BOOL, "true|True|TRUE|false|False|FALSE", "tTfF"),
    (NULL, "~|null|Null|NULL|", ["~", "n", "N", ""]),
    (INT, r"[-+]?(?:0|[1-9][0-9_]*|0[0-7_]+|0b[01_]+|0x[0-9a-fA-F_]+)", "-+0123456789"),
    (FLOAT, r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("tag:yaml.org,2002:merge", "<<", "<"),
):
    Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), [*_first])


class Decoder:
    """Decodes a YAML node as a Go type does; `empty` makes the zero value, for `null` and for a missing key."""

    def __init__(self, name: str, empty: Callable[[], Any], read: Callable[[yaml.Node, str], Any]) -> None:
        self.name = name
        self.empty = empty
        self._read = read

    def __call__(self, node: yaml.Node, path: str) -> Any:
        if node.tag == NULL:
            return self.empty()
        try:
            return self._read(node, path)
        except TypeError:
            kind = KINDS.get(type(node)) or node.tag.rpartition(":")[2]
            raise InvalidTemplate(
                f"{path} has to be {self.name}, not {kind} (line {node.start_mark.line + 1})"
            ) from None


def scalar(node: yaml.Node, *tags: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or (tags and node.tag not in tags):
        raise TypeError
    return str(node.value)


def read_integer(node: yaml.Node, _: str) -> int:
    scalar(node, INT, FLOAT)
    value = construct(node)
    if value != int(value):
        raise TypeError
    return int(value)


def read_boolean(node: yaml.Node, _: str) -> bool:
    text = scalar(node, BOOL, STR).lower()
    if text not in TRUE + FALSE:
        raise TypeError
    return text in TRUE


def construct(node: yaml.Node) -> Any:
    loader = Loader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def pairs(node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise TypeError
    loader = Loader("")
    loader.flatten_mapping(node)  # "<<"
    loader.dispose()
    for key, value in node.value:
        yield scalar(key), value


def read_anything(node: yaml.Node, _: str) -> Any:
    if not isinstance(node, yaml.MappingNode):
        raise TypeError
    return construct(node)


def list_of(item: Decoder) -> Decoder:
    def read(node: yaml.Node, path: str) -> list[Any]:
        if not isinstance(node, yaml.SequenceNode):
            raise TypeError
        return [item(each, f"{path}[{number}]") for number, each in enumerate(node.value)]

    return Decoder(f"a list, each {item.name}", list, read)


def map_of(item: Decoder) -> Decoder:
    def read(node: yaml.Node, path: str) -> dict[str, Any]:
        return {key: item(value, f"{path}.{key}") for key, value in pairs(node)}

    return Decoder(f"a map, each value {item.name}", dict, read)


def record(fields: dict[str, Decoder], *, pointer: bool = False) -> Decoder:
    """A map with these fields; one whose name ends in `?` is left out if it is empty."""

    def read(node: yaml.Node, path: str) -> dict[str, Any]:
        there = dict(pairs(node))
        made: dict[str, Any] = {}
        for name, decoder in fields.items():
            key = name.removesuffix("?")
            value = decoder(there[key], f"{path}.{key}".lstrip(".")) if key in there else decoder.empty()
            if value or key == name:
                made[key] = value
        return made

    def empty() -> dict[str, Any] | None:
        return None if pointer else {name: decoder.empty() for name, decoder in fields.items() if "?" not in name}

    return Decoder("a map", empty, read)


string = Decoder("a string", str, lambda node, _: scalar(node))
integer = Decoder("a number without a fraction", int, read_integer)
boolean = Decoder("true or false", bool, read_boolean)
anything = Decoder("a map", dict, read_anything)
PORT = record({"name": string, "containerPort": integer, "protocol?": string})
VNC = record({"enabled": boolean, "port": integer, "protocol?": string, "encryption?": boolean}, pointer=True)
WEBAPP = record({"enabled": boolean, "port": integer, "path?": string, "healthCheck?": string}, pointer=True)
SPEC = {
    "displayName": string,
    "description": string,
    "category": string,
    "appType?": string,
    "icon?": string,
    "baseImage": string,
    "defaultResources?": map_of(string),
    "ports?": list_of(PORT),
    "env?": list_of(anything),
    "volumeMounts?": list_of(anything),
    "vnc?": VNC,
    "webapp?": WEBAPP,
    "capabilities?": list_of(string),
    "tags?": list_of(string),
}
TEMPLATE = record(
    {
        "apiVersion": string,
        "kind": string,
        "metadata": record({"name": string, "namespace?": string, "labels?": map_of(string)}),
        "spec": record(SPEC),
    }
)


def check_aliases(node: Any, above: set[int], done: set[int]) -> None:
    """Refuse a node, or a list of nodes, that contains itself. `above` holds the ids of the nodes around it."""
    if isinstance(node, yaml.CollectionNode):
        if id(node) in above:
            raise InvalidTemplate(f"an anchor's value contains itself (line {node.start_mark.line + 1})")
        if id(node) not in done:
            above.add(id(node))
            check_aliases(node.value, above, done)
            above.discard(id(node))
            done.add(id(node))
    elif isinstance(node, list | tuple):
        for part in node:
            check_aliases(part, above, done)


def decode(text: str) -> Manifest:
    """The manifest that is sent to agents. Raises `InvalidTemplate`."""
    try:
        node = yaml.compose(text, Loader)
        check_aliases(node, set(), set())
    except yaml.YAMLError as error:
        raise InvalidTemplate(f"it is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InvalidTemplate("it is nested too deep") from None
    if not isinstance(node, yaml.MappingNode):
        raise InvalidTemplate("it holds no map")
    manifest: Manifest = TEMPLATE(node, "")
    if manifest["kind"] != "Template":
        raise InvalidTemplate(f"its kind is {manifest['kind']!r}, not 'Template'")
    if manifest["apiVersion"] not in VERSIONS:
        raise InvalidTemplate(f"its apiVersion is {manifest['apiVersion']!r}, not {VERSIONS[0]!r}")
    for part, name in (("metadata", "name"), ("spec", "displayName"), ("spec", "baseImage")):
        if not manifest[part][name]:
            raise InvalidTemplate(f"{part}.{name} is missing")
    return manifest


def load_folder(folder: Path | str) -> Catalogue:
    """Read all `.yaml` and `.yml` files under a folder. Raises `OSError` if there is no such folder."""
    root, catalogue = Path(folder), Catalogue()
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    for file in sorted(root.rglob("*")):
        if file.suffix.lower() not in (".yaml", ".yml") or ".git" in file.relative_to(root).parts or not file.is_file():
            continue
        try:
            manifest = decode(file.read_text())
        except (InvalidTemplate, UnicodeDecodeError) as reason:
            catalogue.refused.append(f"{file}: {reason}; the catalogue sync skips it")
        else:
            catalogue[manifest["metadata"]["name"]] = manifest
    return catalogue

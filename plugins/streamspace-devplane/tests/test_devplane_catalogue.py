"""What a folder of templates becomes on its way through the control plane."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from streamspace_devplane.catalogue import decode, load_folder
from streamspace_devplane.errors import InvalidTemplate

CATALOGUE = Path(__file__).parents[3] / "tests/data/catalogue"
LEAST = """
apiVersion: stream.space/v1alpha1
kind: Template
metadata: {name: t}
spec:
  displayName: T
  baseImage: i:1
"""


def spec_of(more: str) -> dict[str, Any]:
    made: dict[str, Any] = decode(LEAST + more)["spec"]
    return made


def test_a_template_of_the_catalogue_arrives_with_the_keys_that_the_sync_knows() -> None:
    made = load_folder(CATALOGUE)
    assert made["browser-8080"]["spec"] == {
        "displayName": "Browser",
        "description": "A browser in a web desktop",
        "category": "Web Browsers",
        "icon": "https://example.org/browser.png",
        "baseImage": "lscr.io/linuxserver/chromium:latest",
        "defaultResources": {"memory": "2Gi", "cpu": "1000m"},
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": "PUID", "value": "1000"}, {"name": "PGID", "value": "1000"}],
        "volumeMounts": [{"name": "user-home", "mountPath": "/config"}],
        "capabilities": ["Network", "Audio", "Clipboard"],
        "tags": ["browser", "web"],
    }
    assert made["notebook-webapp"]["spec"]["webapp"] == {
        "enabled": True, "port": 8888, "path": "/lab", "healthCheck": "/lab/api/health",
    }  # fmt: skip
    assert made["desktop-vnc-5901"]["spec"]["vnc"] == {"enabled": True, "port": 5901, "protocol": "rfb"}
    assert made["several-ports"]["spec"]["defaultResources"]["cpu"] == "2"


def test_kasmvnc_vanishes_and_with_it_the_only_word_about_the_port() -> None:
    made = load_folder(CATALOGUE)["drawing-kasmvnc"]["spec"]
    assert set(made) == {
        "displayName", "description", "category", "baseImage", "defaultResources", "volumeMounts", "tags",
    }  # fmt: skip


def test_the_files_that_the_sync_skips_are_named_with_the_reason() -> None:
    made = load_folder(CATALOGUE)
    assert len(made) == 9
    told = {Path(reason.partition(":")[0]).stem: reason.partition(": ")[2] for reason in made.refused}
    assert told == {
        "empty-manifest": "spec.displayName is missing; the catalogue sync skips it",
        "nested-resources": (
            "spec.defaultResources.requests has to be a string, not a map (line 13); the catalogue sync skips it"
        ),
        "string-ports": (
            "spec.ports[0].containerPort has to be a number without a fraction, not str (line 13); the "
            "catalogue sync skips it"
        ),
    }


def test_scalars_become_text_as_they_stand_where_text_is_wanted() -> None:
    made = spec_of("  defaultResources: {memory: 1e3, cpu: 1.50}\n  description: yes\n  category: null\n")
    assert made["defaultResources"] == {"memory": "1e3", "cpu": "1.50"}
    assert (made["description"], made["category"]) == ("yes", "")


def test_what_is_free_of_form_is_read_as_go_reads_yaml() -> None:
    [made] = spec_of("  env: [{name: A, value: yes, at: 22:22, on: 010, deep: {x: [1, true, ~]}}]\n")["env"]
    assert made == {"name": "A", "value": "yes", "at": "22:22", "on": 8, "deep": {"x": [1, True, None]}}


def test_anchors_and_merges_are_resolved() -> None:
    made = spec_of("  vnc: &vnc {enabled: on, port: 5900}\n  webapp: {<<: *vnc, port: 80}\n")
    assert made["vnc"] == {"enabled": True, "port": 5900}
    assert made["webapp"] == {"enabled": True, "port": 80}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it holds no map"),
        ("- 1", "it holds no map"),
        ("a: [", "it is not YAML"),
        (LEAST.replace("Template", "Session"), "its kind is 'Session', not 'Template'"),
        (LEAST.replace("v1alpha1", "v1"), "its apiVersion is 'stream.space/v1'"),
        (LEAST.replace("{name: t}", "{}"), "metadata.name is missing"),
        (LEAST.replace("i:1", "''"), "spec.baseImage is missing"),
        (LEAST + "  ports: {http: 80}", "spec.ports has to be a list"),
        (
            LEAST + "  ports: [{containerPort: 1.5}]",
            r"spec.ports\[0\].containerPort has to be a number without a fraction",
        ),
        (LEAST + "  env: [TZ=UTC]", r"spec.env\[0\] has to be a map, not str \(line 8\)"),
        (LEAST + "  vnc: {enabled: maybe}", "spec.vnc.enabled has to be true or false"),
        (LEAST + "  tags: [[a]]", r"spec.tags\[0\] has to be a string, not a list"),
        (LEAST + "  tags: &a [*a]", r"an anchor's value contains itself \(line 8\)"),
        (LEAST + "  env: [&a {name: A, more: {again: *a}}]", r"an anchor's value contains itself \(line 8\)"),
        (LEAST + "  vnc: &a {<<: *a}", r"an anchor's value contains itself \(line 8\)"),
        (LEAST + f"  env: {'[' * 5000}{']' * 5000}", "it is nested too deep"),
    ],
)
def test_what_is_no_template_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidTemplate, match=reason):
        decode(text)


def test_subfolders_are_read_and_other_files_and_git_are_not(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub/a.YML").write_text(LEAST)
    (tmp_path / ".git/b.yaml").write_text(LEAST.replace("name: t", "name: u"))
    (tmp_path / "README.md").write_text("no template")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xff")
    made = load_folder(tmp_path)
    assert list(made) == ["t"]
    assert len(made.refused) == 1
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        load_folder(tmp_path / "nowhere")


async def test_serve_offers_a_folder_and_tells_what_it_skips(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streamspace_devplane", "serve", "--port", "0", "--json", "--exit-with-stdin",
        "--state-dir", str(tmp_path), "--templates", str(CATALOGUE),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    await asyncio.wait_for(process.stdout.readline(), 30)
    _, told = await asyncio.wait_for(process.communicate(b""), 30)
    assert [Path(line.partition(":")[0]).stem for line in told.decode().splitlines()] == [
        "empty-manifest", "nested-resources", "string-ports",
    ]  # fmt: skip

"""Every JSON member that proa takes or sends is one of the Docker Engine API v1.51.

engine-v1.51.json is extracted from Docker's OpenAPI file by extract_api.py.
"""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from raw_client import RawClient

from proa.api.server import ROUTES, serve
from proa.schema import container, container_state, exec, image, network, stats, system, volume
from proa.schema.config import DaemonConfig

API = json.loads((Path(__file__).parent / "engine-v1.51.json").read_text())
DEFINITIONS: dict[str, Any] = API["definitions"]
ENDPOINTS: dict[str, dict[str, Any]] = API["endpoints"]

EXTENSIONS = {"HostConfig": {"ProaRootfs", "ProaTimeout"}}
"""Members that are proa's own."""

LEGACY_EVENT = {"status", "id", "from"}
"""Sent beside an event's documented members by every dockerd of these versions."""

BODIES = {
    "ExecCreateRequest": None,  # these are inline in the file: checked by the requests below
    "ExecStartRequest": None,
    "ExecInspectResponse": ENDPOINTS["GET /exec/{id}/json"]["200"],
    "ExecProcessConfig": DEFINITIONS["ProcessConfig"],
    "ContainerCreateRequest": {
        **DEFINITIONS["ContainerConfig"],
        "HostConfig": "HostConfig",
        "NetworkingConfig": "NetworkingConfig",
    },
    "NetworkCreateRequest": None,
    "NetworkConnectRequest": None,
    "NetworkDisconnectRequest": None,
    "SystemDataUsage": ENDPOINTS["GET /system/df"]["200"],
    "ContainerUpdateRequest": {**DEFINITIONS["Resources"], "RestartPolicy": "RestartPolicy"},
}


INLINE = {
    "AttestationManifestData",
    "ExecCreateRequest",
    "ExecStartRequest",
    "ImageManifestData",
    "ImageManifestSize",
    "ImageUnpackedSize",
    "MountBindOptions",
    "NetworkConnectRequest",
    "NetworkCreateRequest",
    "NetworkDisconnectRequest",
    "MountImageOptions",
    "MountTmpfsOptions",
    "MountVolumeDriverConfig",
    "MountVolumeOptions",
    "LogConfig",
    "Ulimit",
    "UsageData",
}
"""Structs of schemas that have no name in the file; they are reached through their parents' members."""


def structs() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Every body of the API in proa.schema."""
    for module in (container, container_state, exec, image, network, stats, system, volume):
        for name, kind in vars(module).items():
            if (
                inspect.isclass(kind)
                and issubclass(kind, msgspec.Struct)
                and kind.__module__ == module.__name__
            ):
                yield name, kind


@pytest.mark.parametrize(
    ("name", "kind"), list(structs()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_struct_members_are_dockers(name: str, kind: type[msgspec.Struct]) -> None:
    shape = BODIES.get(name, DEFINITIONS.get(name))
    if shape is None:
        assert name in INLINE, f"{name} is no definition of the API"
        return
    names = {field.encode_name for field in msgspec.structs.fields(kind)}
    assert names - EXTENSIONS.get(name, set()) <= set(shape)


def unknown_members(value: Any, shape: Any, where: str) -> list[str]:
    """Paths of members that the shape does not have."""
    if isinstance(shape, str):
        return unknown_members(value, DEFINITIONS[shape], where)
    if value is None or shape is None:
        return []
    if isinstance(shape, list):
        kind, inner = shape
        members = enumerate(value) if kind == "list" else value.items()
        return [path for key, item in members for path in unknown_members(item, inner, f"{where}.{key}")]
    found = [f"{where}.{key}" for key in value if key not in shape]
    return found + [
        path
        for key in value
        if key in shape
        for path in unknown_members(value[key], shape[key], f"{where}.{key}")
    ]


@pytest.fixture
async def client(tmp_path: Path) -> Any:
    server = await serve(FakeEngine(), DaemonConfig(hosts=(f"unix://{tmp_path}/s",)))
    client = RawClient(tmp_path / "s")
    created = await client.request(
        "POST", "/containers/create?name=one", b'{"Image":"busybox","Cmd":["true"]}'
    )
    assert created.status == 201
    await client.request("POST", "/volumes/create", b'{"Name":"data"}')
    await client.request("POST", "/containers/one/exec", b'{"Cmd":["true"]}')
    yield client
    client.close()
    await server.close()


EXEC_ID = f"{0xE000:064x}"

CASES = [
    ("GET", "/version", "/version", None),
    ("GET", "/info", "/info", None),
    ("GET", "/events", "/events?until=1700000000", None),
    ("POST", "/containers/create", "/containers/create?name=two", b'{"Image":"busybox"}'),
    ("GET", "/containers/json", "/containers/json?all=1", None),
    ("GET", "/containers/{id}/json", "/containers/one/json", None),
    ("GET", "/containers/{id}/top", "/containers/one/top", None),
    ("GET", "/containers/{id}/stats", "/containers/one/stats?stream=0", None),
    ("POST", "/containers/{id}/update", "/containers/one/update", b'{"Memory":1}'),
    ("POST", "/containers/{id}/wait", "/containers/one/wait", None),
    ("POST", "/containers/prune", "/containers/prune", None),
    ("POST", "/containers/{id}/start", "/containers/nosuch/start", None),
    ("POST", "/containers/{id}/exec", "/containers/one/exec", b'{"Cmd":["true"]}'),
    ("GET", "/exec/{id}/json", f"/exec/{EXEC_ID}/json", None),
    ("GET", "/containers/{id}/changes", "/containers/one/changes", None),
    ("GET", "/system/df", "/system/df", None),
    ("POST", "/commit", "/commit?container=one", b"{}"),
    ("GET", "/images/json", "/images/json", None),
    ("GET", "/images/{name}/json", "/images/library/busybox:latest/json", None),
    ("GET", "/images/{name}/history", "/images/busybox/history", None),
    ("DELETE", "/images/{name}", "/images/busybox", None),
    ("POST", "/images/prune", "/images/prune", None),
    ("GET", "/images/search", "/images/search?term=busybox", None),
    ("GET", "/distribution/{name}/json", "/distribution/library/busybox/json", None),
    ("POST", "/auth", "/auth", b'{"username":"me","password":"secret"}'),
    ("GET", "/networks", "/networks", None),
    ("GET", "/networks/{id}", "/networks/bridge", None),
    ("POST", "/networks/create", "/networks/create", b'{"Name":"mine"}'),
    ("POST", "/networks/prune", "/networks/prune", None),
    ("GET", "/volumes", "/volumes", None),
    ("POST", "/volumes/create", "/volumes/create", b'{"Name":"more"}'),
    ("GET", "/volumes/{name}", "/volumes/data", None),
    ("POST", "/volumes/prune", "/volumes/prune", None),
]


@pytest.mark.parametrize(("method", "path", "target", "body"), CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
async def test_answers_have_dockers_members(
    client: RawClient, method: str, path: str, target: str, body: bytes | None
) -> None:
    answer = await client.request(method, target, body)
    shapes = ENDPOINTS[f"{method} {path}"]
    assert str(answer.status) in shapes
    value = json.loads(answer.body.splitlines()[0])
    if path == "/events":
        value = {key: member for key, member in value.items() if key not in LEGACY_EVENT}
    assert unknown_members(value, shapes[str(answer.status)], "") == []


def test_every_route_is_dockers() -> None:
    """A route that the API does not have would be a misspelt one."""
    known = {key.replace("{id}", "{name}") for key in ENDPOINTS}
    manifests = {f"{method} /distribution/{{name}}/manifest" for method in ("GET", "PUT")}
    # dockerd has it too, for BuildKit; the specification does not tell of it.
    extra = {"GET /plugins", "GET /networks/", "POST /grpc"} | manifests
    ours = {f"{route.method} {route.path}" for route in ROUTES}
    assert ours - known - extra == set()


def test_every_endpoint_of_docker_is_answered_for() -> None:
    """What is missing is of swarm and plugins, where clients take a 404."""
    ours = {f"{route.method} {route.path}" for route in ROUTES}
    missing = {key for key in (k.replace("{id}", "{name}") for k in ENDPOINTS) if key not in ours}
    groups = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/plugins")
    left = {key for key in missing if not key.split(" ")[1].startswith(groups)}
    assert left == set()

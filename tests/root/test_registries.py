"""The client of registries and Debian's docker-registry, with skopeo and the docker CLI as second clients.

TLS with an authority of its own, htpasswd, signed tokens, client certificates, a mirror of docker.io.
"""

import base64
import hashlib
import json
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from instance import Instance, instance
from proxy_server import ProxyServer
from registry_server import RegistryServer, registry_server
from registry_thread import RegistryThread
from scripted_registry import Reply, ScriptedRegistry, Seen, descriptor, digest
from skopeo_rig import skopeo

from proa.errors import Forbidden, NotFound, System, Unavailable
from proa.registry import Registry, RegistrySettings
from proa.schema import oci
from proa.schema.reference import Digest, Reference, parse_reference
from proa.schema.registry import Credentials

ME = Credentials(username="me", password="secret")
LAYER = os.urandom(3_000_000)
CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(LAYER)]}}
).encode()
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": {"mediaType": oci.CONFIG, "digest": digest(CONFIG), "size": len(CONFIG)},
        "layers": [{"mediaType": oci.LAYER, "digest": digest(LAYER), "size": len(LAYER)}],
    }
).encode()


def openssl(*words: str | Path, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=given, capture_output=True, check=True).stdout


class Authority:
    """A certificate authority in a directory: ca.pem, and what it signs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._request("ca", "-x509", "-subj", "/CN=test authority", "-days", "2")

    def sign(self, name: str, usage: str) -> None:
        """<name>.pem and <name>.key for 127.0.0.1."""
        self._request(name, "-subj", f"/CN={name}")
        extensions = self.root / f"{name}.ext"
        extensions.write_text(f"subjectAltName=IP:127.0.0.1,DNS:reg.example\nextendedKeyUsage={usage}\n")
        request, made = self.root / f"{name}.pem", self.root / f"{name}.crt"
        ca, key = self.root / "ca.pem", self.root / "ca.key"
        openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", key, "-CAcreateserial", "-days", "2",
                "-extfile", extensions, "-out", made)  # fmt: skip
        made.replace(request)

    def _request(self, name: str, *words: str) -> None:
        key, out = self.root / f"{name}.key", self.root / f"{name}.pem"
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", out, *words)

    def server_tls(self, more: str = "") -> str:
        """docker-registry's http.tls."""
        return f"{{certificate: {self.root}/server.pem, key: {self.root}/server.key{more}}}"

    def trust(self, certs: Path, host: str, *, client: bool = False) -> None:
        """certs.d of a host."""
        folder = certs / host
        folder.mkdir(parents=True)
        shutil.copy(self.root / "ca.pem", folder / "ca.crt")
        if client:
            shutil.copy(self.root / "client.pem", folder / "client.cert")
            shutil.copy(self.root / "client.key", folder / "client.key")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.sign("server", "serverAuth")
    made.sign("client", "clientAuth")
    return made


@pytest.fixture(scope="module")
def guarded(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """TLS and htpasswd: me, whose password is `secret`."""
    root = tmp_path_factory.mktemp("guarded")
    line = b"me:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4))
    (root / "htpasswd").write_bytes(line + b"\n")
    more = f"auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n"
    with registry_server(root, more, authority.server_tls()) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """Plain HTTP, everybody welcome."""
    with registry_server(tmp_path_factory.mktemp("plain")) as server:
        yield server


@pytest.fixture(scope="module", params=["docker-registry", "proa"])
def host(
    request: pytest.FixtureRequest, plain: RegistryServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """An open registry: Debian's, and the one that proa serves."""
    if request.param == "docker-registry":
        yield plain.host
        return
    with RegistryThread(tmp_path_factory.mktemp("own")) as own:
        yield own.address


async def at_once(seconds: float) -> None:
    """Between attempts at a registry that does not need any."""


def client(certs: Path | None = None, **settings: Any) -> Registry:
    return Registry(RegistrySettings(certs_dirs=(str(certs),) if certs else (), **settings), at_once)


def source(data: bytes) -> Any:
    async def read(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(data), 1 << 18):
            yield data[start : start + (1 << 18)]

    return read


async def push(registry: Registry, ref: Reference, who: Credentials | None = None) -> Digest:
    for blob, kind in ((LAYER, oci.LAYER), (CONFIG, oci.CONFIG)):
        await registry.upload_blob(ref, descriptor(blob, kind), source(blob), who)
    return await registry.put_manifest(ref, oci.MANIFEST, MANIFEST, who)


async def pulled(
    registry: Registry, ref: Reference, who: Credentials | None = None, offset: int = 0
) -> bytes:
    found = await registry.resolve(ref, who)
    assert isinstance(found.content, oci.Manifest)
    (layer,) = found.content.layers
    async with registry.blob(ref, layer, who, offset=offset) as chunks:
        return b"".join([chunk async for chunk in chunks])


# ---- the client ----------------------------------------------------------------------------------


async def test_tls_and_a_login(guarded: RegistryServer, authority: Authority, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    authority.trust(certs, guarded.host)
    registry = client(certs)
    ref = parse_reference(f"{guarded.host}/tls/image:1")
    with pytest.raises(System, match="no basic auth credentials"):
        await registry.resolve(ref)
    with pytest.raises(System, match="unauthorized: authentication required"):
        await registry.resolve(ref, Credentials(username="me", password="wrong"))
    assert await push(registry, ref, ME) == digest(MANIFEST)
    assert await pulled(registry, ref, ME) == LAYER
    seen = json.loads(
        skopeo(
            "inspect",
            "--creds",
            "me:secret",
            "--cert-dir",
            str(certs / guarded.host),
            f"docker://{ref.canonical}",
        )
    )
    assert seen["Digest"] == digest(MANIFEST)
    await registry.close()


@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
async def test_through_a_proxy(
    guarded: RegistryServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """TLS to a name that only the proxy can reach; within TLS, where the proxy has its own."""
    authority.trust(tmp_path, "reg.example:5000")
    context = None
    if kind == "https":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(authority.root / "server.pem", authority.root / "server.key")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.root / "ca.pem"))
        monkeypatch.setattr("proa.registry.tls._contexts", {})
    async with ProxyServer(guarded.port, kind, context, login="user:pw") as proxy:
        registry = client(tmp_path, proxies={"https-proxy": proxy.url})
        ref = parse_reference("reg.example:5000/proxied:1")
        assert await push(registry, ref, ME) == digest(MANIFEST)
        assert await pulled(registry, ref, ME) == LAYER
        await registry.close()
    if kind == "socks5":
        assert set(proxy.asked) == {"reg.example:5000"}
        return
    request, *headers = proxy.asked[0].split("\r\n")
    assert request == "CONNECT reg.example:5000 HTTP/1.1"
    assert "Proxy-Authorization: Basic dXNlcjpwdw==" in headers
    assert not any(line.startswith("Authorization") for line in headers)


async def test_a_proxy_that_nobody_trusts(guarded: RegistryServer, authority: Authority) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.root / "server.pem", authority.root / "server.key")
    async with ProxyServer(guarded.port, "https", context) as proxy:
        registry = client(proxies={"https-proxy": proxy.url})
        with pytest.raises(Unavailable, match="tls: failed to verify certificate"):
            await registry.resolve(parse_reference("reg.example:5000/proxied:1"), ME)
        await registry.close()
        assert proxy.asked == []


async def test_an_authority_that_nobody_trusts(
    guarded: RegistryServer, authority: Authority, tmp_path: Path
) -> None:
    """127.0.0.1 is insecure by default; a name that is not must be verified."""
    (tmp_path / "elsewhere.example").mkdir()
    (tmp_path / "elsewhere.example" / "hosts.toml").write_text(f'server = "https://{guarded.host}"\n')
    registry = client(tmp_path)
    with pytest.raises(Unavailable, match="tls: failed to verify certificate"):
        await registry.resolve(parse_reference("elsewhere.example/a:1"), ME)
    await registry.close()
    registry = client()
    with pytest.raises(NotFound, match="manifest unknown"):
        await registry.resolve(parse_reference(f"{guarded.host}/a:1"), ME)
    await registry.close()


async def test_a_login_over_tls_is_not_repeated_in_plain(authority: Authority) -> None:
    """An insecure registry may fall back to plain HTTP; what was said before is then asked for anew."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.root / "server.pem", authority.root / "server.key")
    registry = client()
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}

    def guard(seen: Seen) -> Reply | None:
        return None if "authorization" in seen.headers else Reply(401, b"", challenge)

    async with ScriptedRegistry(context) as secure:
        ref = parse_reference(f"{secure.host}/a:1")
        secure.image("a", "1", LAYER)
        secure.fault = guard
        await registry.resolve(ref, ME)
    async with ScriptedRegistry(port=secure.port) as plain:
        await registry.head(ref, ME)
        assert "authorization" not in plain.seen[0].headers
    await registry.close()


async def test_client_certificates(authority: Authority, tmp_path: Path) -> None:
    tls = authority.server_tls(f", clientcas: [{authority.root}/ca.pem]")
    with registry_server(tmp_path / "server", tls=tls) as server:
        ref = parse_reference(f"{server.host}/a:1")
        authority.trust(tmp_path / "with", server.host, client=True)
        authority.trust(tmp_path / "without", server.host)
        registry = client(tmp_path / "with")
        assert await push(registry, ref) == digest(MANIFEST)
        await registry.close()
        registry = client(tmp_path / "without")
        with pytest.raises(Unavailable):
            await registry.resolve(ref)
        await registry.close()


async def test_what_skopeo_pushes_is_pulled_and_the_other_way(host: str, tmp_path: Path) -> None:
    registry = client()
    ref = parse_reference(f"{host}/both/ways:1")
    await push(registry, ref)
    folder = tmp_path / "image"
    skopeo("copy", "--src-tls-verify=false", f"docker://{ref.canonical}", f"dir:{folder}")
    assert (folder / digest(LAYER)[7:]).read_bytes() == LAYER
    skopeo("copy", "--dest-tls-verify=false", f"dir:{folder}", f"docker://{host}/both/back:2")
    back = parse_reference(f"{host}/both/back:2")
    found = await registry.resolve(back)
    assert found.digest == hashlib_of(folder / "manifest.json")
    assert await pulled(registry, back) == LAYER
    assert await registry.tags(back) == ["2"]
    await registry.close()


def hashlib_of(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


async def test_ranges_mounts_chunks_and_pages(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = client()
    first, second = (parse_reference(f"{host}/parts/{name}:1") for name in ("one", "two"))
    await push(registry, first)
    assert await pulled(registry, first, offset=1_234_567) == LAYER[1_234_567:]
    assert await registry.mount_blob(second, Digest(digest(LAYER)), first)
    assert await registry.has_blob(second, Digest(digest(LAYER)))
    assert not await registry.mount_blob(second, Digest(digest(b"nowhere")), first)
    more = os.urandom(1_000_000)
    assert registry._clients is not None
    upload = registry._clients.upload
    begun = await upload._begin(second, None)
    begun.chunk = 300_000
    upload._opened[second.name, Digest(digest(more))] = begun
    await registry.upload_blob(second, descriptor(more), source(more))
    assert await registry.small_blob(second, descriptor(more)) == more
    monkeypatch.setattr("proa.registry.download.PAGE", 1)
    for tag in ("2", "3"):
        await registry.put_manifest(parse_reference(f"{first.name}:{tag}"), oci.MANIFEST, MANIFEST)
    assert sorted(await registry.tags(first)) == ["1", "2", "3"]
    await registry.close()


async def test_mirror_of_the_hub(host: str) -> None:
    registry = client(mirrors=(f"http://{host}",))
    await push(registry, parse_reference(f"{host}/library/mirrored:1"))
    found = await registry.resolve(parse_reference("mirrored:1"), ME)
    assert (found.digest, found.host) == (digest(MANIFEST), host)
    assert await pulled(registry, parse_reference("mirrored:1")) == LAYER
    await registry.close()


class TokenServer:
    """Signs what docker-registry believes; `me` may do everything, others pull what is below public/."""

    def __init__(self, authority: Authority, registry: str) -> None:
        self._authority = authority
        self._registry = registry
        pem = (authority.root / "ca.pem").read_text()
        self._certificate = "".join(pem.split("-----")[2].split())

    def answer(self, seen: Seen) -> Reply:
        shown = seen.headers.get("authorization", "")
        known = shown == "Basic " + base64.b64encode(b"me:secret").decode()
        if shown and not known:
            return Reply(401, b'{"details":"incorrect username or password"}')
        access = []
        for scope in seen.query.get("scope", []):
            kind, name, actions = scope.split(":")
            given = actions.split(",") if known else ["pull"] if name.startswith("public/") else []
            access.append({"type": kind, "name": name, "actions": given})
        return Reply(200, json.dumps({"token": self._token(access), "expires_in": 300}).encode())

    def _token(self, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self._certificate]}
        claims = {
            "iss": "test", "sub": "", "aud": "registry", "jti": "1",
            "exp": now + 300, "nbf": now - 10, "iat": now, "access": access,
        }  # fmt: skip
        text = b".".join(_part(json.dumps(part).encode()) for part in (header, claims))
        signature = openssl("dgst", "-sha256", "-sign", self._authority.root / "ca.key", given=text)
        return (text + b"." + _part(signature)).decode()


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


async def test_signed_tokens(authority: Authority, tmp_path: Path) -> None:
    async with ScriptedRegistry() as tokens:
        more = (
            f"auth: {{token: {{realm: '{tokens.url}/token', service: registry, issuer: test, "
            f"rootcertbundle: {authority.root}/ca.pem}}}}\n"
        )
        with registry_server(tmp_path / "server", more) as server:
            tokens.fault = TokenServer(authority, server.host).answer
            await use_tokens(server, tokens)


async def use_tokens(server: RegistryServer, tokens: ScriptedRegistry) -> None:
    registry = client()
    public, private = (parse_reference(f"{server.host}/{name}/x:1") for name in ("public", "private"))
    for ref in (public, private):
        assert await push(registry, ref, ME) == digest(MANIFEST)
    asked = len(tokens.seen)
    assert await pulled(registry, public) == LAYER
    assert await registry.resolve(public)
    assert len(tokens.seen) == asked + 1
    with pytest.raises(
        NotFound, match=r"pull access denied for .*/private/x, repository does not exist or may"
    ):
        await registry.resolve(private)
    with pytest.raises(Forbidden, match="denied: requested access to the resource is denied"):
        await registry.upload_blob(private, descriptor(b"x"), source(b"x"))
    with pytest.raises(System, match="incorrect username or password"):
        await registry.resolve(private, Credentials(username="me", password="wrong"))
    assert await registry.mount_blob(private, Digest(digest(LAYER)), public, ME)
    at = Credentials(username="me", password="secret", server_address=server.host)
    assert (await registry.check(at)).status == "Login Succeeded"
    await registry.close()


# ---- through the daemon --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(
    guarded: RegistryServer,
    plain: RegistryServer,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Instance]:
    certs = tmp_path_factory.mktemp("certs")
    authority.trust(certs, guarded.host)
    root = tmp_path_factory.mktemp("daemon")
    words = ("--certs-dir", str(certs), "--registry-mirror", f"http://{plain.host}")
    with instance(root, *words) as daemon:
        yield daemon


@pytest.mark.parametrize("cli", ["docker", "proa"])
async def test_login_manifest_and_logout(
    running: Instance, guarded: RegistryServer, cli: str, tmp_path: Path
) -> None:
    if cli == "docker" and not shutil.which("docker"):
        pytest.skip("needs the docker CLI")
    registry = client()
    ref = parse_reference(f"{guarded.host}/daemon/image:1")
    await push(registry, ref, ME)
    await registry.close()
    config = ("--config", str(tmp_path))
    done = running.run(*config, "login", "-u", "me", "-p", "wrong", guarded.host, cli=cli)
    assert done.returncode == 1
    assert f"login attempt to https://{guarded.host}/v2/ failed with status: 401 Unauthorized" in done.stderr
    done = running.run(
        *config, "login", "-u", "me", "--password-stdin", guarded.host, cli=cli, input="secret\n"
    )
    assert (done.returncode, done.stdout) == (0, "Login Succeeded\n")
    if cli == "proa":
        done = running.run(*config, "manifest", "inspect", ref.canonical, cli=cli)
        assert json.loads(done.stdout) == json.loads(MANIFEST)
        done = running.run(*config, "manifest", "inspect", "-v", ref.canonical, cli=cli)
        assert json.loads(done.stdout)["Descriptor"]["platform"] == {"architecture": "amd64", "os": "linux"}
    assert running.run(*config, "logout", guarded.host, cli=cli).returncode == 0
    if cli == "proa":
        done = running.run(*config, "manifest", "inspect", ref.canonical, cli=cli)
        assert "no basic auth credentials" in done.stderr


@pytest.mark.parametrize("cli", ["docker", "proa"])
def test_push_and_pull_behind_tls_and_htpasswd(
    running: Instance, guarded: RegistryServer, cli: str, tmp_path: Path
) -> None:
    if cli == "docker" and not shutil.which("docker"):
        pytest.skip("needs the docker CLI")
    config = ("--config", str(tmp_path))
    name = f"{guarded.host}/by-{cli}:1"
    assert running.run("tag", "busybox", name, cli=cli).returncode == 0
    refused = running.run(*config, "push", name, cli=cli)
    assert (refused.returncode, "no basic auth credentials" in refused.stderr) == (1, True)
    running.run(*config, "login", "-u", "me", "--password-stdin", guarded.host, cli=cli, input="secret\n")
    for words in (("push", name), ("rmi", name), ("pull", name), ("run", "--rm", name, "true")):
        done = running.run(*config, *words, cli=cli)
        assert done.returncode == 0, done.stderr


async def test_distribution_inspect(
    running: Instance, guarded: RegistryServer, plain: RegistryServer
) -> None:
    registry = client()
    await push(registry, parse_reference(f"{plain.host}/library/inspected:1"))
    await registry.close()
    found = running.api.call("GET", "/distribution/inspected:1/json")
    assert found == {
        "Descriptor": {"mediaType": oci.MANIFEST, "digest": digest(MANIFEST), "size": len(MANIFEST)},
        "Platforms": [{"architecture": "amd64", "os": "linux"}],
    }


def test_search_where_the_registry_has_none(running: Instance, plain: RegistryServer) -> None:
    done = running.run("search", f"{plain.host}/x", cli="proa")
    assert (done.returncode, done.stderr) == (1, "Error response from daemon: Unexpected status code 404\n")

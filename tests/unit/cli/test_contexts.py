"""`proa context`: Docker's files, Docker's words, and a choice that is proa's own."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from proa.cli.context_store import ContextStore, current
from proa.cli.endpoint import client_for
from proa.cli.failure import Failure
from proa.cli.flags import Globals
from proa.cli.main import dispatch

MISSING = "ca3704aa0b06f5954c79ee837faa152d84d6b2d42838f0637a15eda8337dbdce"
"""SHA-256 of `nope`."""


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Globals:
    """A config directory of one's own, and an environment that names no daemon."""
    monkeypatch.setattr("proa.cli.context_store.variable", lambda name: "")
    monkeypatch.setattr("proa.cli.contexts.variable", lambda name: "")
    for name in (
        "PROA_HOST",
        "DOCKER_HOST",
        "PROA_CONTEXT",
        "DOCKER_CONTEXT",
        "DOCKER_TLS",
        "DOCKER_TLS_VERIFY",
    ):
        monkeypatch.delenv(name, raising=False)
    options = Globals()
    options.config = str(tmp_path / "config")
    return options


@pytest.fixture
def certificates(tmp_path: Path) -> str:
    """--docker's words for three files."""
    words = []
    for key in ("ca", "cert", "key"):
        (tmp_path / key).write_text(f"the {key}")
        words.append(f"{key}={tmp_path / key}")
    return ",".join(words)


def _run(options: Globals, *words: str) -> None:
    assert dispatch(["context", *words], options) == 0


def _fails(options: Globals, *words: str) -> str:
    with pytest.raises(Failure) as caught:
        dispatch(["context", *words], options)
    return str(caught.value)


def test_created_as_docker_writes_it(
    options: Globals, certificates: str, capfd: pytest.CaptureFixture[str]
) -> None:
    _run(
        options, "create", "bb", "--description", "some text", "--docker", f"host=tcp://h:2376,{certificates}"
    )
    assert capfd.readouterr() == ("bb\n", 'Successfully created context "bb"\n')
    meta, tls = (Path(folder) for folder in ContextStore(options).folders("bb"))
    assert meta.name == "3b64db95cb55c763391c707108489ae18b4112d783300de38e033b4c98c3deaf"
    assert (meta / "meta.json").read_text() == (
        '{"Name":"bb","Metadata":{"Description":"some text"},'
        '"Endpoints":{"docker":{"Host":"tcp://h:2376","SkipTLSVerify":false}}}'
    )
    assert {path.name: path.read_text() for path in (tls / "docker").iterdir()} == {
        "ca.pem": "the ca",
        "cert.pem": "the cert",
        "key.pem": "the key",
    }
    for directory in (tls.parent, tls, tls / "docker"):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert (tls / "docker/key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create", "a"], 'context name "a" is invalid, names are validated against regexp'),
        (["create", "../../x"], "is invalid, names are validated"),
        (["create", "ab\n"], "is invalid, names are validated"),
        (["create", "default"], '"default" is a reserved context name'),
        (["create", "ee", "--docker", "bogus=1"], "unrecognized config key: bogus"),
        (["create", "ee", "--docker", "bogus"], 'for "--docker" flag: bogus must be formatted as key=value'),
        (["create", "ee", "--docker", "ca=/none"], "endpoint config: open /none: no such file or directory"),
        (["create", "ee", "--docker", "skip-tls-verify=x"], 'skip-tls-verify: parsing "x": invalid syntax'),
        (["create", "ee", "--docker", "from=nope"], 'endpoint config: context "nope": context not found'),
        (
            ["create", "ee", "--from", "xx", "--docker", "host=a"],
            "cannot use --docker flag when --from is set",
        ),
        (["create", "ee", "--from", "nope"], f"contexts/meta/{MISSING}/meta.json: no such file"),
        (["update", "default", "--description", "x"], '"default" is a reserved context name'),
        (["update", "nope"], 'context "nope": context not found: open '),
        (["use", "nope"], 'context "nope": context not found: open '),
        (["export", "nope"], 'context "nope": context not found: open '),
        (["inspect", "nope"], 'context "nope": context not found: open '),
        (["import", "ee", "/none"], "open /none: no such file or directory"),
        (["rm", "nope", "default"], 'context "nope" does not exist\ncontext "default" cannot be removed'),
    ],
)
def test_refusals(options: Globals, words: list[str], message: str) -> None:
    assert message in _fails(options, *words)
    assert ContextStore(options).names() == []


def test_copied_and_changed(options: Globals, certificates: str) -> None:
    _run(options, "create", "bb", "--description", "text", "--docker", f"host=tcp://h,{certificates}")
    assert 'context "bb" already exists' in _fails(options, "create", "bb")
    _run(options, "create", "cc", "--from", "bb")
    _run(options, "create", "dd", "--docker", "from=bb")
    store = ContextStore(options)
    assert store.load("cc").description == "text"
    assert store.load("dd").description == ""
    assert store.load("bb").tls == store.load("cc").tls == store.load("dd").tls
    _run(options, "update", "cc", "--docker", "host=tcp://k,skip-tls-verify=true")
    changed = store.load("cc")
    assert (changed.description, changed.host, changed.tls) == ("text", "tcp://k", {})
    assert changed.endpoint["SkipTLSVerify"] is True
    _run(options, "update", "bb", "--description", "new")
    assert (store.load("bb").description, store.load("bb").host) == ("new", "tcp://h")
    assert store.load("bb").tls["docker"]["key.pem"] == b"the key"


def test_the_one_in_use(options: Globals, capfd: pytest.CaptureFixture[str]) -> None:
    _run(options, "create", "ab", "--docker", "host=unix:///x.sock")
    assert current(options) == "default"
    _run(options, "use", "ab")
    assert current(options) == "ab"
    assert client_for(options).host == "unix:///x.sock"
    assert not Path(options.config, "config.json").exists()  # docker goes on with its own
    assert 'context "ab" is in use, set -f flag to force remove' in _fails(options, "rm", "ab")
    capfd.readouterr()
    _run(options, "ls", "--format", "{{.Name}} {{.Current}} {{.DockerEndpoint}}")
    assert capfd.readouterr().out == "ab true unix:///x.sock\ndefault false unix:///run/proa/proad.sock\n"
    _run(options, "rm", "-f", "ab")
    assert current(options) == "default"
    assert ContextStore(options).names() == []


def test_a_flag_and_a_host_come_first(options: Globals) -> None:
    _run(options, "create", "ab", "--docker", "host=unix:///x.sock")
    _run(options, "create", "cd", "--docker", "host=tcp://y:1")
    _run(options, "use", "ab")
    options.context = "cd"
    assert client_for(options).host == "tcp://y:1"
    options.context, options.hosts = "", ["unix:///z"]
    assert (current(options), client_for(options).host) == ("default", "unix:///z")


def test_one_that_is_gone_is_told(options: Globals, capfd: pytest.CaptureFixture[str]) -> None:
    _run(options, "create", "cc", "--docker", "host=unix:///x.sock")
    _run(options, "use", "cc")
    Path(ContextStore(options).folders("cc")[0], "meta.json").unlink()
    with pytest.raises(Failure, match='unable to resolve docker endpoint: context "cc": context not found'):
        client_for(options)
    capfd.readouterr()
    _run(options, "ls", "--format", "{{.Name}}:{{.Error}}")
    shown = capfd.readouterr().out.splitlines()
    assert shown[0].startswith('cc:context "cc": context not found: open ')
    assert len(shown[0].removeprefix("cc:")) == 45


def test_inspected(options: Globals, certificates: str, capfd: pytest.CaptureFixture[str]) -> None:
    _run(options, "create", "bb", "--docker", f"host=tcp://h,{certificates}")
    capfd.readouterr()
    _run(options, "inspect", "bb")
    meta, tls = ContextStore(options).folders("bb")
    assert json.loads(capfd.readouterr().out) == [
        {
            "Name": "bb",
            "Metadata": {},
            "Endpoints": {"docker": {"Host": "tcp://h", "SkipTLSVerify": False}},
            "TLSMaterial": {"docker": ["ca.pem", "cert.pem", "key.pem"]},
            "Storage": {"MetadataPath": meta, "TLSPath": tls},
        }
    ]


# ---- archives ---------------------------------------------------------------------------------------


def test_exported_and_imported(options: Globals, certificates: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    _run(options, "create", "bb", "--description", "text", "--docker", f"host=tcp://h,{certificates}")
    _run(options, "export", "bb", str(archive))
    assert archive.stat().st_mode & 0o777 == 0o600
    assert f"open {archive}: file exists" in _fails(options, "export", "bb", str(archive))
    with tarfile.open(archive) as tar:
        names = [(entry.name, entry.mode) for entry in tar]
    files = [(f"tls/docker/{name}.pem", 0o600) for name in ("ca", "cert", "key")]
    assert names == [("meta.json", 0o644), ("tls", 0o700), ("tls/docker", 0o700), *files]
    _run(options, "import", "nn", str(archive))
    store = ContextStore(options)
    assert store.load("nn").tls == store.load("bb").tls
    assert store.load("nn").meta == {**store.load("bb").meta, "Name": "nn"}


def _tar(path: Path, entries: dict[str, str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, text in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))


META = '{"Name":"q","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://h"}}}'


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "invalid context: no metadata found"),
        ({"tls/docker/ca.pem": "x"}, "invalid context: no metadata found"),
        ({"meta.json": META, "other": ""}, "other: unexpected context file"),
        ({"meta.json": META, "tls/../../../x/y": ""}, "tls/../../../x/y: unexpected path format"),
        ({"meta.json": META, "tls//x": ""}, "tls//x: unexpected path format"),
        ({"meta.json": META, "tls/..": ""}, "tls/..: unexpected path format"),
        ({"meta.json": META, "tls/one": ""}, "archive format is invalid"),
        ({"meta.json": META, "tls/docker/a/b": ""}, "archive format is invalid"),
        ({"meta.json": META, "tls/docker/a\\b": ""}, "unexpected '\\' in path"),
        ({"meta.json": "{"}, "invalid context: meta.json: "),
        ({"meta.json": "[]"}, "invalid context: meta.json describes no endpoints"),
    ],
)
def test_archives_that_are_none(
    options: Globals, tmp_path: Path, entries: dict[str, str], message: str
) -> None:
    _tar(tmp_path / "archive", entries)
    assert message in _fails(options, "import", "nn", str(tmp_path / "archive"))
    assert not Path(options.config).exists()


def test_what_is_no_archive(options: Globals, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("something else")
    assert "archive/tar: invalid tar header" in _fails(options, "import", "nn", str(file))
    file.write_bytes(b"PK\x03\x04 and then nothing")
    assert "zip: " in _fails(options, "import", "nn", str(file))
    file.write_bytes(bytes((10 << 20) + 1))
    assert "read exceeds the defined limit" in _fails(options, "import", "nn", str(file))


def test_a_zip(options: Globals, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", META)
        archive.writestr("tls/docker/ca.pem", "the ca")
    _run(options, "import", "nn", str(tmp_path / "archive"))
    found = ContextStore(options).load("nn")
    assert (found.host, found.tls) == ("tcp://h", {"docker": {"ca.pem": b"the ca"}})
    for files in ({"meta.json": 11}, {"tls/docker/ca.pem": 6, "tls/docker/key.pem": 6}):
        with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, size in files.items():
                archive.writestr(name, bytes(size << 20))
        assert "read exceeds the defined limit" in _fails(options, "import", "n2", str(tmp_path / "archive"))
    with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", META * 9)
    broken = bytearray((tmp_path / "archive").read_bytes())
    broken[40:60] = bytes(20)
    (tmp_path / "archive").write_bytes(broken)
    assert "zip: " in _fails(options, "import", "n2", str(tmp_path / "archive"))


def test_a_file_that_claims_to_be_large(options: Globals, tmp_path: Path) -> None:
    entry = tarfile.TarInfo("meta.json")
    entry.size = 1 << 40
    (tmp_path / "archive").write_bytes(entry.tobuf() + bytes(1024))
    assert "read exceeds the defined limit" in _fails(options, "import", "nn", str(tmp_path / "archive"))

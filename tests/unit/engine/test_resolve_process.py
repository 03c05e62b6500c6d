"""Command, environment, working directory and user of a container."""

import pytest
from resolving import GROUP, IMAGE, PASSWD, context, resolved

from proa.engine.resolve.identity import Identity, identify
from proa.errors import InvalidParameter
from proa.schema.container import HealthConfig
from proa.schema.image import ImageConfig


def who(user: str, group_add: tuple[str, ...] = (), passwd: bytes | None = PASSWD) -> Identity:
    return identify(user, group_add, lambda paths: [passwd, GROUP])


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "image", "expected"),
    [
        (None, None, ImageConfig(cmd=["sh"]), ("sh",)),
        (None, ["ls", "-l"], ImageConfig(cmd=["sh"]), ("ls", "-l")),
        (None, None, ImageConfig(entrypoint=["/init"], cmd=["sh"]), ("/init", "sh")),
        (None, ["ls"], ImageConfig(entrypoint=["/init"], cmd=["sh"]), ("/init", "ls")),
        (["/mine"], None, ImageConfig(entrypoint=["/init"], cmd=["sh"]), ("/mine",)),
        ([""], ["ls"], ImageConfig(entrypoint=["/init"], cmd=["sh"]), ("ls",)),
        ([], None, ImageConfig(entrypoint=["/init"], cmd=["sh"]), ("sh",)),
    ],
)
def test_command_of_request_and_image(entrypoint, cmd, image, expected) -> None:
    found = resolved(within=context(image=image), entrypoint=entrypoint, cmd=cmd)
    assert found.plan.process.args == expected


@pytest.mark.parametrize(("entrypoint", "image"), [([""], IMAGE), (None, ImageConfig()), (None, None)])
def test_no_command_at_all(entrypoint, image) -> None:
    with pytest.raises(InvalidParameter, match=r"^no command specified$"):
        resolved(within=context(image=image), entrypoint=entrypoint)


def test_environment_is_complete_and_the_request_wins() -> None:
    env = resolved(env=["LANG=de", "GONE", "X="], hostname="h").plan.process.env
    assert dict(entry.split("=", 1) for entry in env) == {
        "PATH": "/bin",
        "HOSTNAME": "h",
        "LANG": "de",
        "X": "",
        "HOME": "/root",
    }


def test_environment_defaults() -> None:
    env = resolved(within=context(image=ImageConfig(cmd=["sh"])), tty=True).plan.process.env
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in env
    assert "TERM=xterm" in env
    assert "HOSTNAME=c0ffee000000" in env


def test_a_variable_without_a_value_takes_the_default_away() -> None:
    assert not any(e.startswith("PATH=") for e in resolved(env=["PATH"]).plan.process.env)


@pytest.mark.parametrize("entry", ["=x", ""])
def test_environment_that_cannot_be(entry: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid environment variable"):
        resolved(env=[entry])


@pytest.mark.parametrize(("given", "cwd"), [("", "/"), ("/a/../b//c", "/b/c"), ("//x", "/x")])
def test_working_directory(given: str, cwd: str) -> None:
    assert resolved(working_dir=given).plan.process.cwd == cwd


def test_a_relative_working_directory() -> None:
    with pytest.raises(
        InvalidParameter, match="the working directory 'x' is invalid, it needs to be an absolute"
    ):
        resolved(working_dir="x")


@pytest.mark.parametrize(
    ("user", "add", "expected"),
    [
        ("", (), Identity(uid=0, gid=0, groups=(0, 10), home="/root")),
        ("app", (), Identity(uid=1000, gid=1001, groups=(1001, 10, 29), home="/home/app")),
        ("1000", (), Identity(uid=1000, gid=1001, groups=(1001, 10, 29), home="/home/app")),
        ("app:audio", (), Identity(uid=1000, gid=29, groups=(29,), home="/home/app")),
        ("app:7", (), Identity(uid=1000, gid=7, groups=(7,), home="/home/app")),
        ("4242", (), Identity(uid=4242, gid=0, groups=(0,), home="/")),
        ("4242:4343", ("audio", "99"), Identity(uid=4242, gid=4343, groups=(4343, 29, 99), home="/")),
        (":audio", (), Identity(uid=0, gid=29, groups=(29,), home="/root")),
    ],
)
def test_users(user: str, add: tuple[str, ...], expected: Identity) -> None:
    assert who(user, add) == expected


@pytest.mark.parametrize(
    ("user", "add", "text"),
    [
        ("ghost", (), "^unable to find user ghost: no matching entries in passwd file$"),
        ("app:ghosts", (), "^unable to find group ghosts: no matching entries in group file$"),
        ("app", ("ghosts",), "^unable to find group ghosts: no matching entries in group file$"),
        ("99999999999", (), "uids and gids must be in range 0-2147483647"),
        ("4294967296", (), "uids and gids must be in range 0-2147483647"),
        ("-1", (), "uids and gids must be in range 0-2147483647"),
        ("0:2147483648", (), "uids and gids must be in range 0-2147483647"),
        ("huge", (), "uids and gids must be in range 0-2147483647"),
        ("9" * 5000, (), "uids and gids must be in range 0-2147483647"),
    ],
)
def test_users_that_are_refused(user: str, add: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        who(user, add)


def test_an_image_without_passwd_has_only_numbers() -> None:
    assert who("5:6", passwd=None).uid == 5
    assert who("", passwd=None) == Identity(uid=0, gid=0, groups=(0,), home="/")
    with pytest.raises(InvalidParameter):
        who("root", passwd=None)


def test_a_user_named_like_a_number_is_still_an_id() -> None:
    assert who("77", passwd=b"77:x:0:0::/root:/bin/sh\n").uid == 77


@pytest.mark.parametrize(
    "passwd",
    [
        b"a:x:" + b"9" * 10_000 + b":0::/:\nroot:x:0:0::/root:\n",
        b"a:x:\xd9\xa0:0::/no:\nroot:x:0:0::/root:\n",  # a digit of another script is none
        b"a:x:5:5:\xe2\x80\xa8root2:x:0:0::/no:\x0bx:x:0:0::/no:\nroot:x:0:0::/root:\n",
        b":::::::\n::0\nroot:x:0:0::/root:\n",
        b"\xff:x:0x0:0::/\xff:\nroot:x:0:0::/root:\n",
    ],
)
def test_a_hostile_passwd_is_read_line_by_line(passwd: bytes) -> None:
    assert who("0", passwd=passwd).home == "/root"
    with pytest.raises(InvalidParameter, match="unable to find user"):
        who("root2", passwd=passwd)


def test_a_passwd_that_cannot_be_read_is_told_of() -> None:
    def read(paths: object) -> list[bytes | None]:
        raise OSError(5, "read /etc/passwd: Input/output error")

    with pytest.raises(InvalidParameter, match="unable to find user app: read /etc/passwd: Input/output"):
        identify("app", (), read)


def test_what_is_no_text_in_passwd_can_be_stored() -> None:
    who("a", passwd=b"a:x:5:5::/home/\xff:\n").home.encode()


@pytest.mark.parametrize(
    "user", [" root", "root ", "0 ", "\n0", "0x0", "1e3", "\u0660", "a\0b", "1_0", "0:0:0", "::"]
)
def test_a_user_is_taken_literally(user: str) -> None:
    with pytest.raises(InvalidParameter):
        who(user)


@pytest.mark.parametrize("name", ["a\nb", "a b", "a\tb", "x\0", "a#b", "\u2028", "\u00e4" * 33])
def test_names_are_one_word_of_the_hosts_file(name: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid hostname format"):
        resolved(hostname=name)
    with pytest.raises(InvalidParameter, match="invalid domainname format"):
        resolved(domainname=name)


def test_health_of_image_and_request_are_merged() -> None:
    image = ImageConfig(cmd=["sh"], healthcheck=HealthConfig(test=["CMD", "true"], retries=5, interval=10**9))
    found = resolved(within=context(image=image), healthcheck=HealthConfig(interval=2 * 10**9))
    assert found.config.healthcheck == HealthConfig(test=["CMD", "true"], retries=5, interval=2 * 10**9)


@pytest.mark.parametrize(
    ("health", "text"),
    [
        (HealthConfig(interval=10), "Interval in Healthcheck cannot be less than 1ms"),
        (HealthConfig(timeout=10), "Timeout in Healthcheck cannot be less than 1ms"),
        (HealthConfig(start_period=-5), "StartPeriod in Healthcheck cannot be less than 1ms"),
        (HealthConfig(retries=-1), "Retries in Healthcheck cannot be negative"),
        (HealthConfig(test=["SHELL"]), "Unknown healthcheck type 'SHELL'"),
    ],
)
def test_health_that_is_refused(health: HealthConfig, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        resolved(healthcheck=health)


def test_labels_and_volumes_come_together() -> None:
    image = ImageConfig(cmd=["sh"], labels={"a": "1", "b": "1"}, volumes={"/v": {}})
    found = resolved(within=context(image=image), labels={"b": "2"}, volumes={"/w": {}})
    assert found.config.labels == {"a": "1", "b": "2"}
    assert set(found.config.volumes or {}) == {"/v", "/w"}


def test_a_nul_character_in_an_argument() -> None:
    with pytest.raises(InvalidParameter, match="nul character"):
        resolved(cmd=["a\0b"])

"""The client's config.json: default detach keys, table formats and proxies. Read only where it exists."""

from proa.cli.environment import config_directory
from proa.cli.failure import Failure
from proa.cli.jsontext import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from proa.cli.flags import Globals, Parsed

_PROXIES = (
    ("httpProxy", "HTTP_PROXY"),
    ("httpsProxy", "HTTPS_PROXY"),
    ("noProxy", "NO_PROXY"),
    ("ftpProxy", "FTP_PROXY"),
    ("allProxy", "ALL_PROXY"),
)


def load(options: "Globals") -> "dict[str, Any]":
    """The whole file, empty where there is none. Raises Failure when it is not JSON."""
    path = f"{config_directory(options)}/config.json"
    try:
        with open(path, encoding="utf-8") as file:
            found = decode(file.read())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except ValueError as exc:
        raise Failure(f"Error loading config file: {path}: {exc}") from None
    return found if isinstance(found, dict) else {}


def add_proxies(parsed: "Parsed", body: "dict[str, Any]") -> None:
    """Give the container the proxies of the file, except those that -e sets; and the file's detach keys."""
    settings = load(parsed.options)
    if settings.get("detachKeys"):
        parsed.values.setdefault("detach-keys", settings["detachKeys"])
    given = {variable.partition("=")[0] for variable in parsed.get("env", ())}
    extra = [f"{name}={value}" for name, value in proxies(settings, given).items()]
    if extra:
        body["Env"] = body.get("Env", []) + extra


def proxies(settings: "dict[str, Any]", given: "set[str]") -> dict[str, str]:
    """The proxies of the file as variables, in both cases, except those that were given in either."""
    found = {}
    configured = (settings.get("proxies") or {}).get("default") or {}
    for key, name in _PROXIES:
        if configured.get(key) and name not in given and name.lower() not in given:
            found[name] = found[name.lower()] = configured[key]
    return found

"""What the lists (ps, images, networks, volumes) share: --filter, --format's help, config.json's defaults."""

from proa.cli.environment import config_directory, exists
from proa.cli.flags import Parsed
from proa.cli.jsontext import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from proa.cli.flags import Globals

_REFER = (
    "Refer to https://docs.docker.com/go/formatting/ "
    "for more information about formatting output with templates"
)

FORMAT_HELP = (
    "Format output using a custom template:\n"
    "'table':            Print output in table format with column headers (default)\n"
    "'table TEMPLATE':   Print output in table format using the given Go template\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template.\n" + _REFER
)

INSPECT_FORMAT_HELP = (
    "Format output using a custom template:\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template.\n" + _REFER
)


def filters(parsed: Parsed, **more: dict[str, bool]) -> str | None:
    """The `filters` parameter of the --filter flags, None when there are none."""
    found = {**parsed.get("filter", {}), **more}
    return encode(found).decode() if found else None


def configured(options: "Globals", key: str) -> str:
    """A setting of the client's config.json, empty where there is no such file."""
    if not exists(f"{config_directory(options)}/config.json"):
        return ""
    from proa.cli.configfile import load

    value = load(options).get(key, "")
    return value if isinstance(value, str) else ""

"""The values of flags that are more than text: numbers, sizes, durations and validated lists.

`convert` is what the parser calls; each kind's function takes the text and gives the value or raises
BadFlag in the words of Docker's CLI (which are often Go's). Source: the observed behaviour of docker 28.
"""

import posix

from proa.cli.environment import variable
from proa.cli.failure import BadFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}

_DURATION_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}

ULIMITS = frozenset(
    (
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    )
)

_SYSCTLS = frozenset(
    (
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    )
)


def convert(name: str, kind: str, text: str, values: "dict[str, Any]") -> None:
    """Add the flag's value to `values`: lists grow, maps are filled, the rest is replaced.

    Raises BadFlag.
    """
    base, _, validator = kind.partition(":")
    if base == "list":
        values.setdefault(name, []).append(_validator(validator)(text))
    elif base == "strings":
        values.setdefault(name, []).extend(csv_fields(text) if text else [])
    elif base == "map":
        key, _, value = (_validator(validator)(text) if validator else text).partition("=")
        values.setdefault(name, {})[key] = value
    elif base == "stringToString":
        _pairs(text, values.setdefault(name, {}))
    elif base == "filter":
        _filter(text, values.setdefault(name, {}))
    elif base == "ulimit":
        limit = ulimit(text)
        values.setdefault(name, {})[limit["Name"]] = limit
    elif base in ("mount", "network", "gpu-request"):
        from proa.cli import specifications

        values.setdefault(name, []).append(specifications.PARSERS[base](text))
    else:
        values[name] = _SCALARS[kind](text)


def go_quote(text: str) -> str:
    """Go's %q."""
    from proa.cli.flags import _quote

    return _quote(text)


def integer(text: str, function: str = "ParseInt", bits: int = 64) -> int:
    """Go's strconv.ParseInt(text, 0, bits) and ParseUint."""
    signed = function == "ParseInt"
    digits = text.lstrip("+-") if signed else text
    wrong = BadFlag(f"strconv.{function}: parsing {go_quote(text)}: invalid syntax")
    if len(text) - len(digits) > 1 or not digits or not digits[0].isdigit() or not text.isascii():
        raise wrong
    try:
        number = int(digits, 8) if digits[0] == "0" and digits.isdigit() else int(digits, 0)
    except ValueError:
        raise wrong from None
    number = -number if text[0] == "-" else number
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= number <= high:
        raise BadFlag(f"strconv.{function}: parsing {go_quote(text)}: value out of range")
    return number


def size(text: str) -> int:
    """Bytes of `512m`, `1.5g`, `64kb`, `1GiB` (powers of 1024)."""
    end = max((text.rfind(mark) for mark in "0123456789. "), default=-1)
    if end < 0:
        raise BadFlag(f"invalid size: '{text}'")
    number, suffix = (text[:end] if text[end] == " " else text[: end + 1]), text[end + 1 :]
    try:
        amount = float(number) if number == number.strip() else float("x")
    except ValueError:
        raise BadFlag(f"strconv.ParseFloat: parsing {go_quote(number)}: invalid syntax") from None
    if amount < 0:
        raise BadFlag(f"invalid size: '{text}'")
    if not suffix:
        return int(amount)
    unit = suffix.lower()
    if len(suffix) > 3 or (unit[0] != "b" and unit[0] not in _BINARY):
        raise BadFlag(f"invalid suffix: '{suffix if len(suffix) > 3 else unit}'")
    rest_fits = unit == "b" if unit[0] == "b" else unit[1:] in ("", "b", "ib")
    if not rest_fits:
        raise BadFlag(f"invalid suffix: '{unit}'")
    return int(amount * _BINARY.get(unit[0], 1))


def swap_size(text: str) -> int:
    """A size, or -1 for unlimited."""
    return -1 if text == "-1" else size(text)


def duration(text: str) -> int:
    """Nanoseconds of Go's `1h30m`, `1.5s`, `-10ms`."""
    rest = text
    sign = 1
    if rest[:1] in ("+", "-"):
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0
    wrong = BadFlag(f"time: invalid duration {go_quote(text)}")
    if not rest:
        raise wrong
    total = 0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        if not number or number == "." or number.count(".") > 1:
            raise wrong
        letters = 0
        while letters < len(rest) and rest[letters] not in "0123456789.":
            letters += 1
        unit, rest = rest[:letters], rest[letters:]
        if not unit:
            raise BadFlag(f"time: missing unit in duration {go_quote(text)}")
        if unit not in _DURATION_UNITS:
            raise BadFlag(f"time: unknown unit {go_quote(unit)} in duration {go_quote(text)}")
        whole, _, fraction = number.partition(".")
        scale = _DURATION_UNITS[unit]
        total += int(whole or "0") * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)
    return sign * total


def cpus(text: str) -> int:
    """Nano-CPUs of a decimal number or a fraction."""
    numerator, slash, denominator = text.partition("/")
    try:
        whole, power = _decimal(numerator)
        divisor = int(denominator) if slash else 1
        if divisor == 0:
            raise ValueError
    except ValueError:
        raise BadFlag(f"failed to parse {text} as a rational number") from None
    scaled = whole * 10 ** (9 + max(power, 0))
    divisor *= 10 ** max(-power, 0)
    if scaled % divisor:
        raise BadFlag("value is too precise")
    return int(scaled // divisor)


def _decimal(text: str) -> tuple[int, int]:
    """(mantissa, power of ten). Raises ValueError."""
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    if not (whole.lstrip("+-") + fraction).isdigit():
        raise ValueError
    return int(whole + fraction), int(exponent or "0") - len(fraction)


def ulimit(text: str) -> dict[str, object]:
    """`nofile=1024:2048`."""
    name, equals, limits = text.partition("=")
    if not equals:
        raise BadFlag(f"invalid ulimit argument: {text}")
    if name not in ULIMITS:
        raise BadFlag(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise BadFlag(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
    numbers = [integer(part) for part in parts[::-1]]
    hard, soft = numbers[0], numbers[-1]
    if hard != -1:
        less = "ulimit soft limit must be less than or equal to hard limit"
        if soft == -1:
            raise BadFlag(f"{less}: soft: -1 (unlimited), hard: {hard}")
        if soft > hard:
            raise BadFlag(f"{less}: {soft} > {hard}")
    return {"Name": name, "Hard": hard, "Soft": soft}


def csv_fields(text: str) -> list[str]:
    """One line of comma-separated values, quoted as encoding/csv takes them."""
    if '"' not in text:
        return text.split(",")
    import csv

    try:
        return next(csv.reader([text], strict=True))
    except csv.Error:
        raise BadFlag(
            f'parse error on line 1, column {text.index(chr(34)) + 1}: bare " in non-quoted-field'
        ) from None


def _pairs(text: str, found: dict[str, str]) -> None:
    """`a=1,b=2`; a field without `=` belongs to the value before it."""
    last = ""
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if equals:
            last = key
            found[key] = value
        elif last:
            found[last] += f",{field}"
        else:
            raise BadFlag(f"{text} must be formatted as key=value")


def _filter(text: str, filters: dict[str, dict[str, bool]]) -> None:
    if not text:
        return
    name, equals, value = text.partition("=")
    if not equals:
        raise BadFlag("bad format of filter (expected name=value)")
    filters.setdefault(name.strip().lower(), {})[value.strip()] = True


def ip_address(text: str) -> str:
    """The canonical text of an address. Raises BadFlag."""
    import _socket

    address = text.strip()
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            return _socket.inet_ntop(family, _socket.inet_pton(family, address))
        except OSError:
            continue
    raise BadFlag(f"IP address is not correctly formatted: {text}")


def _attach(text: str) -> str:
    if text.lower() in ("stdin", "stdout", "stderr"):
        return text.lower()
    raise BadFlag("valid streams are STDIN, STDOUT and STDERR")


def _env(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not name:
        raise BadFlag(f"invalid environment variable: {text}")
    if not equals and name.encode("utf-8", "surrogateescape") in posix.environ:
        return f"{name}={variable(name)}"
    return text


def _label(text: str) -> str:
    key = text.partition("=")[0].lstrip(" \t")
    if not key:
        raise BadFlag(f"invalid label '{text}': empty name")
    if " " in key or "\t" in key:
        raise BadFlag(f"label '{key}' contains whitespaces")
    return text


def _extra_host(text: str) -> str:
    name, equals, address = text.partition("=")
    if not equals:
        name, equals, address = text.partition(":")
    if not equals or not name or ":" in name:
        raise BadFlag(f"bad format for add-host: {go_quote(text)}")
    if address != "host-gateway":
        if len(address) > 2 and address[0] == "[" and address[-1] == "]":
            address = address[1:-1]
        try:
            ip_address(address)
        except BadFlag:
            raise BadFlag(f"invalid IP address in add-host: {go_quote(address)}") from None
    return f"{name}:{address}"


def _link(text: str) -> str:
    if not text:
        raise BadFlag("empty string specified for links")
    if text.count(":") > 1:
        raise BadFlag(f"bad format for links: {text}")
    return text


def _dns_search(text: str) -> str:
    import re

    text = text.strip(" ")
    if text == ".":
        return text
    label = r"[a-zA-Z0-9](?:[a-zA-Z0-9\-]*[a-zA-Z0-9])?"
    match = re.match(rf"^:?({label}(?:\.{label})*)\.?\s*$", text)
    if match is None or not re.search("[a-zA-Z]", text) or len(match[1]) >= 255:
        raise BadFlag(f"{text} is not a valid domain")
    return match[1]


def _sysctl(text: str) -> str:
    name, equals, _ = text.partition("=")
    if equals and (name in _SYSCTLS or name.startswith(("net.", "fs.mqueue."))):
        return text
    raise BadFlag(f"sysctl '{text}' is not allowed")


def _cgroup_rule(text: str) -> str:
    import re

    if re.match(r"^[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}$", text):
        return text
    raise BadFlag(f"invalid device cgroup format '{text}'")


def _device_path(text: str) -> tuple[str, str]:
    path, colon, value = text.partition(":")
    if not colon or not path:
        raise BadFlag(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise BadFlag(f"bad format for device path: {text}")
    return path, value


def _weight_device(text: str) -> dict[str, object]:
    path, value = _device_path(text)
    if not value.isdigit() or not (int(value) == 0 or 10 <= int(value) <= 1000):
        raise BadFlag(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(value)}


def _throttle_bps(text: str) -> dict[str, object]:
    path, value = _device_path(text)
    try:
        return {"Path": path, "Rate": size(value)}
    except BadFlag:
        raise BadFlag(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. "
            "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ) from None


def _throttle_iops(text: str) -> dict[str, object]:
    path, value = _device_path(text)
    if not value.isdigit():
        raise BadFlag(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. "
            "Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(value)}


def _validator(name: str) -> "Callable[[str], Any]":
    return _VALIDATORS[name]


_VALIDATORS: "dict[str, Callable[[str], Any]]" = {
    "attach": _attach,
    "bps": _throttle_bps,
    "cgroup-rule": _cgroup_rule,
    "dns-search": _dns_search,
    "env": _env,
    "host": _extra_host,
    "iops": _throttle_iops,
    "ip": ip_address,
    "label": _label,
    "link": _link,
    "sysctl": _sysctl,
    "weight": _weight_device,
}

_SCALARS: "dict[str, Callable[[str], Any]]" = {
    "int": integer,
    "int64": integer,
    "uint": lambda text: integer(text, "ParseUint"),
    "uint16": lambda text: integer(text, "ParseUint", 16),
    "uint64": lambda text: integer(text, "ParseUint"),
    "bytes": size,
    "bytes:swap": swap_size,
    "decimal": cpus,
    "duration": duration,
}

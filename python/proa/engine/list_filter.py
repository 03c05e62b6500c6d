"""Docker's filters of the list and the prune: one key's values are alternatives, keys must all hold.

Source: moby daemon/list.go, api/types/filters (Match is a regular expression's search for names and ids).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import proa_native

from proa.engine.container import Container
from proa.engine.state import Status
from proa.errors import InvalidParameter, NotFound

_LIST_KEYS = frozenset(
    (
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    )
)
_PRUNE_KEYS = frozenset(("label", "label!", "until"))
_TRUE, _FALSE = (
    frozenset(("1", "true", "True", "TRUE", "t", "T")),
    frozenset(("0", "false", "False", "FALSE", "f", "F")),
)
_HEALTH = frozenset(("starting", "healthy", "unhealthy", "none"))
_LAST_PORT = 65535
_GO_DURATION = re.compile(r"([0-9.]+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

Lookup = Callable[[str], Container]
Predicate = Callable[[Container], bool]


class ListFilter:
    """The filters of one list request, checked."""

    def __init__(
        self, filters: Mapping[str, Sequence[str]], lookup: Lookup, ancestors: Callable[[str], frozenset[str]]
    ) -> None:
        """`ancestors` gives the ids of the images a name stands for, children included.

        Raises InvalidParameter for an unknown key or value, NotFound for before or since.
        """
        for key in filters:
            if key not in _LIST_KEYS:
                raise InvalidParameter(f"invalid filter '{key}'")
        given = {key: tuple(values) for key, values in filters.items() if values}
        self.all = bool(given.keys() & {"status", "before", "since"})
        """Containers that do not run are asked for, too."""
        self._before = [_found(lookup, ref).id for ref in given.get("before", ())]
        self._since = [_found(lookup, ref).id for ref in given.get("since", ())]
        self._ancestors = ancestors
        self._checks = [
            getattr(self, f"_{key.replace('-', '_')}")(values)
            for key, values in given.items()
            if key not in ("before", "since")
        ]

    def __call__(self, container: Container) -> bool:
        return all(check(container) for check in self._checks)

    def between(self, newest_first: Sequence[Container]) -> Sequence[Container]:
        """Those created before the one named by `before` and after the one named by `since`."""
        ids = [container.id for container in newest_first]
        start = max((ids.index(id_) + 1 for id_ in self._before), default=0)
        end = min((ids.index(id_) for id_ in self._since), default=len(ids))
        return newest_first[start:end]

    def _id(self, values: Sequence[str]) -> Predicate:
        searches = [_search(value) for value in values]
        return lambda c: any(found_in(c.id) for found_in in searches)

    def _name(self, values: Sequence[str]) -> Predicate:
        searches = [_search(value) for value in values]
        return lambda c: any(
            found_in(name) for found_in in searches for name in (c.record.name, f"/{c.record.name}")
        )

    def _label(self, values: Sequence[str]) -> Predicate:
        return lambda c: labels_match(values, c.record.resolved.config.labels or {})

    def _exited(self, values: Sequence[str]) -> Predicate:
        try:
            codes = {int(value) for value in values}
        except ValueError:
            raise InvalidParameter(f"invalid filter 'exited={values[0]}'") from None
        return lambda c: not c.state.running and bool(c.state.started_ns) and c.state.exit_code in codes

    def _status(self, values: Sequence[str]) -> Predicate:
        for value in values:
            if value not in set(Status):
                raise InvalidParameter(f"invalid filter 'status={value}'")
        return lambda c: c.state.status in values

    def _health(self, values: Sequence[str]) -> Predicate:
        for value in values:
            if value not in _HEALTH:
                raise InvalidParameter(f"invalid filter 'health={value}'")
        return lambda c: (c.health.status if c.health else "none") in values

    def _ancestor(self, values: Sequence[str]) -> Predicate:
        ids = frozenset[str]().union(*(self._ancestors(value) for value in values))
        return lambda c: c.record.image_id in ids

    def _volume(self, values: Sequence[str]) -> Predicate:
        wanted = set(values)
        return lambda c: any(
            point.name in wanted or point.destination in wanted or point.source in wanted
            for point in c.record.resolved.mount_points
        )

    def _network(self, values: Sequence[str]) -> Predicate:
        def connected(container: Container) -> bool:
            sandbox = container.state.sandbox
            wish = container.record.resolved.network
            names = {endpoint.network for endpoint in wish.endpoints}
            if wish.mode in ("host", "none"):
                names.add(wish.mode)
            names |= {endpoint.network_name for endpoint in sandbox.endpoints} if sandbox else set()
            ids = [endpoint.network_id for endpoint in sandbox.endpoints] if sandbox else []
            return any(
                value in names or any(id_.startswith(value) for id_ in ids if value) for value in values
            )

        return connected

    def _publish(self, values: Sequence[str]) -> Predicate:
        """By the host's ports, as long as they are published."""
        wanted = _port_set("publish", values)

        def published(container: Container) -> bool:
            sandbox = container.state.sandbox
            return sandbox is not None and any(f"{p.host_port}/{p.protocol}" in wanted for p in sandbox.ports)

        return published

    def _expose(self, values: Sequence[str]) -> Predicate:
        """Of those that run with interfaces of their own: only these have ports."""
        wanted = _port_set("expose", values)

        def exposed(container: Container) -> bool:
            sandbox = container.state.sandbox
            if not container.state.alive or sandbox is None or sandbox.mode != "bridge":
                return False
            ports = {f"{p.container_port}/{p.protocol}" for p in sandbox.ports}
            return bool(wanted & {*ports, *(container.record.resolved.config.exposed_ports or ())})

        return exposed

    def _is_task(self, values: Sequence[str]) -> Predicate:
        tasks = _boolean("is-task", values)
        return lambda _: not tasks

    def _isolation(self, values: Sequence[str]) -> Predicate:
        return lambda c: (c.record.resolved.host_config.isolation or "default") in values


class PruneFilter:
    """The filters of a prune: `until`, `label`, `label!`."""

    def __init__(self, filters: Mapping[str, Sequence[str]], now_ns: int) -> None:
        """Raises InvalidParameter."""
        for key in filters:
            if key not in _PRUNE_KEYS:
                raise InvalidParameter(f"invalid filter '{key}'")
        until = filters.get("until") or ()
        if len(until) > 1:
            raise InvalidParameter("more than one until filter specified")
        self._until_ns = _timestamp(until[0], now_ns) if until else 0
        self._with, self._without = filters.get("label") or (), filters.get("label!") or ()

    def __call__(self, container: Container) -> bool:
        return self.covers(container.record.resolved.config.labels or {}, container.record.created_ns)

    def covers(self, labels: Mapping[str, str], created_ns: int) -> bool:
        """The same for anything with labels and an age."""
        if self._until_ns and created_ns > self._until_ns:
            return False
        return labels_match(self._with, labels) and not (
            self._without and labels_match(self._without, labels)
        )


def labels_match(wanted: Sequence[str], labels: Mapping[str, str]) -> bool:
    """Whether every `key` or `key=value` is there."""
    for text in wanted:
        key, separator, value = text.partition("=")
        if key not in labels or (separator and labels[key] != value):
            return False
    return True


def _found(lookup: Lookup, ref: str) -> Container:
    try:
        return lookup(ref)
    except NotFound as exc:
        raise NotFound(f"No such container: {ref}") from exc


def _search(value: str) -> Callable[[str], bool]:
    """Whether a text has something that an expression fits, or the words themselves where it is none.

    Not by `re`: over some expressions that takes for ever, and the daemon with it.
    """
    try:
        return proa_native.Expression(value).found_in
    except ValueError:
        return lambda text: value in text


def _boolean(key: str, values: Sequence[str]) -> bool:
    if values[0] in _TRUE:
        return True
    if values[0] in _FALSE:
        return False
    raise InvalidParameter(f"invalid filter '{key}={values[0]}'")


def _port_set(kind: str, values: Sequence[str]) -> set[str]:
    """`80`, `80/tcp`, `8000-8080/udp` as the keys of a port map."""
    found: set[str] = set()
    for value in values:
        ports, _, protocol = value.partition("/")
        first, _, last = ports.partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            raise InvalidParameter(
                f"error while looking up for {kind} {value}: strconv.ParseUint: "
                f'parsing "{ports}": invalid syntax'
            ) from None
        if not 0 <= low <= high <= _LAST_PORT:
            raise InvalidParameter(f"invalid port: {value}")
        found.update(f"{number}/{protocol or 'tcp'}" for number in range(low, high + 1))
    return found


def _timestamp(text: str, now_ns: int) -> int:
    """Unix seconds, a Go duration before now, or a date. Raises InvalidParameter."""
    try:
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return int(float(text) * 1e9)
        parts = _GO_DURATION.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            return now_ns - int(sum(float(number) * _UNITS[unit] for number, unit in parts) * 1e9)
        return int(datetime.fromisoformat(text).timestamp() * 1e9)
    except (ValueError, OverflowError):  # OverflowError: farther away than numbers of 64 bits
        raise InvalidParameter(f"invalid value for until filter: {text}") from None

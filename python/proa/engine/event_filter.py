"""Which events a subscriber wants: Docker's filters of GET /events.

Values of one key are alternatives, keys must all hold. Source: moby daemon/events/filter.go.
"""

from collections.abc import Mapping, Sequence

from proa.schema.system import EventMessage

_BY_NAME = ("config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume")
_KEYS = frozenset((*_BY_NAME, "event", "image", "label", "scope", "type"))
_WITH_DETAIL = frozenset(("exec_create", "exec_start", "health_status"))
"""Actions that carry more after a colon: asked for without it, the prefix decides."""


class EventFilter:
    """A predicate over events."""

    def __init__(self, filters: Mapping[str, Sequence[str]]) -> None:
        """A key that events do not have is passed over, as Docker does: clients send what others know."""
        self._filters = {key: values for key, values in filters.items() if values and key in _KEYS}

    def __call__(self, message: EventMessage) -> bool:
        return all(self._matches(key, values, message) for key, values in self._filters.items())

    def _matches(self, key: str, values: Sequence[str], message: EventMessage) -> bool:
        attributes = (message.actor.attributes if message.actor else None) or {}
        actor = message.actor.id if message.actor else ""
        if key == "event":
            return _action_matches(values, message.action)
        if key == "type":
            return message.type in values
        if key == "scope":
            return message.scope in values
        if key == "label":
            return all(_label_matches(value, attributes) for value in values)
        if key == "image":
            return _image_matches(values, message, actor, attributes)
        name = attributes.get("name", "")
        return key in _BY_NAME and any(actor.startswith(value) or name.startswith(value) for value in values)


def _action_matches(values: Sequence[str], action: str) -> bool:
    if _WITH_DETAIL.intersection(values):
        return any(action.startswith(value) for value in values)
    return action in values


def _label_matches(value: str, attributes: Mapping[str, str]) -> bool:
    key, separator, wanted = value.partition("=")
    return key in attributes and (not separator or attributes[key] == wanted)


def _image_matches(
    values: Sequence[str], message: EventMessage, actor: str, attributes: Mapping[str, str]
) -> bool:
    name = attributes.get("image" if message.type == "container" else "name", "")
    candidates = {actor, name, _without_tag(actor), _without_tag(name)}
    return not candidates.isdisjoint(values)


def _without_tag(name: str) -> str:
    head, separator, tag = name.rpartition(":")
    return head if separator and "/" not in tag else name

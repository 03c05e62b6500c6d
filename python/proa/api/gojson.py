"""JSON as Go's encoding/json reads it into a struct, for the bodies that are not in the API's own spelling.

Go takes a struct's keys in any case (an exact one first), the last of equal ones, and lets nested objects
under equal keys grow together; the keys of maps stay as they are. A null leaves a field as it was. What does
not fit is told in Go's words, which name Go's types.

`exact` makes the types whose decoding tells whether any of this is needed: with exact keys it costs nothing.

Source: Go src/encoding/json/decode.go and fold.go (1.19); the words of dockerd 20.10.
"""

import json
import re
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct, field, inspect
from msgspec.structs import FieldInfo, fields

from proa.errors import InvalidParameter

T = TypeVar("T", bound=Struct)

_WORD_LISTS: Final = frozenset(
    (
        "ContainerConfigWrapper.Cmd",
        "ContainerConfigWrapper.Entrypoint",
        "ContainerConfigWrapper.Shell",
        "HostConfig.CapAdd",
        "HostConfig.CapDrop",
    )
)
"""Go's strslice: one word may stand for a list of it."""

_GO_STRUCTS: Final = {
    "ContainerConfig": "runconfig.ContainerConfigWrapper",
    "ContainerCreateRequest": "runconfig.ContainerConfigWrapper",
    "ContainerUpdateRequest": "container.UpdateConfig",
    "Credentials": "types.AuthConfig",
    "ExecCreateRequest": "types.ExecConfig",
    "ExecStartRequest": "types.ExecStartCheck",
    "Mount": "mount.Mount",
    "MountBindOptions": "mount.BindOptions",
    "MountImageOptions": "mount.ImageOptions",
    "MountTmpfsOptions": "mount.TmpfsOptions",
    "MountVolumeDriverConfig": "mount.Driver",
    "MountVolumeOptions": "mount.VolumeOptions",
    "NetworkConnectRequest": "types.NetworkConnect",
    "NetworkCreateRequest": "types.NetworkCreateRequest",
    "NetworkDisconnectRequest": "types.NetworkDisconnect",
    "PortBinding": "nat.PortBinding",
    "ThrottleDevice": "blkiodev.ThrottleDevice",
    "Ulimit": "units.Ulimit",
    "VolumeCreateOptions": "volume.VolumeCreateBody",
    **{
        name: f"network.{name}"
        for name in ("ConfigReference", "EndpointIPAMConfig", "EndpointSettings", "IPAM", "IPAMConfig")
    },
    "NetworkingConfig": "network.NetworkingConfig",
}
"""Go's names of our structs; the others have the one they have here, in its package `container`."""

_GO_TYPES: Final = {
    "BlkioWeight": "uint16",
    "ConsoleSize": "[2]uint",
    "Count": "int",
    "EndpointsConfig": "map[string]*network.EndpointSettings",
    "ExposedPorts": "nat.PortSet",
    "Interval": "time.Duration",
    "MaximumRetryCount": "int",
    "OomScoreAdj": "int",
    "PortBindings": "nat.PortMap",
    "Retries": "int",
    "StartInterval": "time.Duration",
    "StartPeriod": "time.Duration",
    "StopTimeout": "int",
    "Timeout": "time.Duration",
}
"""Of fields whose type in Go has a name that theirs here does not tell."""

_ABSENT: Final = object()


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


class _Pairs(list[tuple[str, Any]]):
    """An object's members in their order, equal ones as well."""


# ---- the types that take exact keys only --------------------------------------------------------


@cache
def exact(kind: type[T]) -> type[T]:
    """A subclass of a struct, and within it of every one below, whose decoding refuses unknown keys."""
    return msgspec.defstruct(  # type: ignore[return-value]  # it cannot say that it is one of its bases
        kind.__name__,
        [(each.name, _exact_type(each.type), _default(each)) for each in fields(kind)],
        bases=(kind,),
        module=kind.__module__,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def _default(each: FieldInfo) -> Any:
    if each.default_factory is not NODEFAULT:
        return field(name=each.encode_name, default_factory=each.default_factory)
    return field(name=each.encode_name, default=each.default)


def _exact_type(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Struct):
        return exact(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if not arguments or origin is Annotated:
        return hint
    changed = tuple(map(_exact_type, arguments))
    return reduce(or_, changed) if origin in (Union, UnionType) else origin[changed]


# ---- as Go reads them ---------------------------------------------------------------------------


def decode(data: bytes, kind: type[T]) -> T:
    """The value of a JSON text; a null has the type's defaults.

    Raises msgspec.DecodeError, UnicodeDecodeError and RecursionError for what is no JSON, InvalidParameter in
    Go's words for what does not fit.
    """
    msgspec.json.decode(data)
    tree = json.loads(data, object_pairs_hook=_Pairs, parse_int=_Number, parse_float=_Number)
    taken = _taken(tree, _shape(kind), _Place(), _ABSENT)
    return msgspec.convert({} if taken is _ABSENT else taken, kind)


class _Place:
    """Where in the value a member stands: the struct that has it, and the names from the root."""

    def __init__(self, struct: str = "", path: str = "", within: bool = False) -> None:
        self.struct = struct
        self.path = path
        self.within = within
        """It is an element of the field's map or list."""

    def member(self, struct: str, name: str) -> "_Place":
        return _Place(struct, f"{self.path}.{name}" if self.path else name)

    def element(self) -> "_Place":
        return _Place(self.struct, self.path, within=True)

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def is_words(self) -> bool:
        return not self.within and f"{self.struct}.{self.name}" in _WORD_LISTS

    def refuse(self, what: str, go_type: str) -> InvalidParameter:
        """The error of a value that is no `go_type`."""
        where = f"struct field {self.struct}.{self.path}" if self.path else "value"
        return InvalidParameter(f"json: cannot unmarshal {what} into Go {where} of type {go_type}")


@cache
def _shape(kind: type[Struct]) -> inspect.Type:
    return inspect.type_info(kind)


def _taken(value: Any, shape: inspect.Type, place: _Place, before: Any) -> Any:
    """The value in the shape's own spelling; `before` is what equal keys said, _ABSENT for nothing."""
    optional, shape = isinstance(shape, inspect.UnionType), _required(shape)
    if value is None:
        # To Go a null is no change of a value, and none of a pointer, a map or a slice.
        return _ABSENT if optional or isinstance(shape, inspect.DictType | inspect.ListType) else before
    match shape:
        case inspect.StructType():
            return _struct(value, shape, place, before)
        case inspect.DictType():
            return _map(value, shape, place, before)
        case inspect.ListType():
            return _list(value, shape, place)
        case inspect.StrType() | inspect.BoolType():
            wanted = str if isinstance(shape, inspect.StrType) else bool
            if type(value) is not wanted:
                raise place.refuse(_kind_of(value), go_type(shape, place))
            return value
        case inspect.IntType():
            return _integer(value, shape, place)
        case _:
            return _plain(value)


def _required(shape: inspect.Type) -> inspect.Type:
    if isinstance(shape, inspect.Metadata):
        return _required(shape.type)
    if isinstance(shape, inspect.UnionType):
        return _required(next(each for each in shape.types if not isinstance(each, inspect.NoneType)))
    return shape


@cache
def _members(kind: type[Struct]) -> tuple[dict[str, inspect.Field], dict[str, inspect.Field]]:
    """A struct's fields by their names, and by those without case; the first of equal ones."""
    shape = _shape(kind)
    assert isinstance(shape, inspect.StructType)
    named = {each.encode_name: each for each in shape.fields}
    return named, {name.casefold(): each for name, each in reversed(named.items())}


def _struct(value: Any, shape: inspect.StructType, place: _Place, before: Any) -> Any:
    if not isinstance(value, _Pairs):
        raise place.refuse(_kind_of(value), go_type(shape, place))
    exactly, folded = _members(shape.cls)
    name = _go_name(shape.cls).rpartition(".")[2]
    members = {} if before is _ABSENT else before
    for key, each in value:
        found = exactly.get(key) or folded.get(key.casefold())
        if found is None:
            continue
        within = place.member(name, found.encode_name)
        taken = _taken(each, found.type, within, members.get(found.encode_name, _ABSENT))
        if taken is _ABSENT:
            members.pop(found.encode_name, None)
        else:
            members[found.encode_name] = taken
    return members


def _map(value: Any, shape: inspect.DictType, place: _Place, before: Any) -> Any:
    if not isinstance(value, _Pairs):
        raise place.refuse(_kind_of(value), go_type(shape, place))
    members = {} if before is _ABSENT else before
    place = place.element()
    for key, each in value:
        taken = _taken(each, shape.value_type, place, _ABSENT)
        members[key] = _zero(shape.value_type) if taken is _ABSENT else taken
    return members


def _list(value: Any, shape: inspect.ListType, place: _Place) -> Any:
    if place.is_words:
        return _words(value, place)
    if isinstance(value, _Pairs) or not isinstance(value, list):
        raise place.refuse(_kind_of(value), go_type(shape, place))
    place = place.element()
    items = (_taken(each, shape.item_type, place, _ABSENT) for each in value)
    return [_zero(shape.item_type) if each is _ABSENT else each for each in items]


def _words(value: Any, place: _Place) -> list[str]:
    words = [value]
    if isinstance(value, list) and not isinstance(value, _Pairs):
        words = ["" if each is None else each for each in value]
    if not all(type(each) is str for each in words):
        raise place.refuse(_kind_of(value), "string")
    return words


def _integer(value: Any, shape: inspect.IntType, place: _Place) -> int:
    if not isinstance(value, _Number):
        raise place.refuse(_kind_of(value), go_type(shape, place))
    # Digits are counted before they are read: int() takes its time over many.
    if re.fullmatch(r"-?\d{1,19}", value):
        number = int(value)
        if (shape.ge is None or shape.ge <= number) and (shape.le is None or number <= shape.le):
            return number
    raise place.refuse(f"number {value}", go_type(shape, place))


def _zero(shape: inspect.Type) -> Any:
    """Go's zero value, of what null stands for in a map or a list."""
    if isinstance(shape, inspect.UnionType):
        return None
    match _required(shape):
        case inspect.StrType():
            return ""
        case inspect.BoolType():
            return False
        case inspect.IntType():
            return 0
        case inspect.ListType():
            return []
        case _:
            return {}


def _plain(value: Any) -> Any:
    """A value whose type nothing is known of."""
    if isinstance(value, _Pairs):
        return {key: _plain(each) for key, each in value}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return json.loads(value) if isinstance(value, _Number) else value


# ---- Go's words ---------------------------------------------------------------------------------


def _kind_of(value: Any) -> str:
    if isinstance(value, _Pairs):
        return "object"
    if isinstance(value, _Number):
        return "number"
    return {list: "array", str: "string", bool: "bool"}[type(value)]


def _go_name(kind: type[Struct]) -> str:
    return _GO_STRUCTS.get(kind.__name__, f"container.{kind.__name__}")


def go_type(shape: inspect.Type, place: _Place) -> str:
    """What Go calls the type of a value at a place."""
    own = _GO_TYPES.get(place.name, "")
    if own and not place.within and not isinstance(shape, inspect.StrType | inspect.StructType):
        return own
    match _required(shape):
        case inspect.StructType(cls=kind):
            return _go_name(kind)
        case inspect.DictType(value_type=inspect.AnyType() | inspect.CustomType()):
            return "struct {}"
        case inspect.DictType(value_type=value):
            return f"map[string]{go_type(value, _Place())}"
        case inspect.ListType(item_type=item):
            return f"[]{go_type(item, _Place())}"
        case inspect.StrType():
            return "string"
        case inspect.BoolType():
            return "bool"
        case inspect.FloatType():
            return "float64"
        case inspect.IntType():
            return "int64"
        case _:
            return "interface {}"


_CONTEXTS: Final = (
    ("object keys must be strings", "looking for beginning of object key string"),
    ("trailing comma in object", "looking for beginning of object key string"),
    ("trailing comma in array", "looking for beginning of value"),
    ("expected ':'", "after object key"),
    ("expected ',' or '}'", "after object key:value pair"),
    ("expected ',' or ']'", "after array element"),
    ("invalid escape character", "in string escape code"),
    ("invalid number", "in numeric literal"),
)


def malformed(data: bytes, error: Exception) -> str:
    """Go's words for a text that is no JSON, of msgspec's."""
    text = str(error)
    if "truncated" in text:
        return "unexpected EOF"
    found = re.search(r"\(byte (\d+)\)", text)
    if found is None or int(found[1]) >= len(data):
        return text
    byte = data[int(found[1]) - ("escape" in text)]  # of an escape, msgspec names what follows it
    context = next((ours for theirs, ours in _CONTEXTS if theirs in text), "")
    if not context:
        context = "in string literal" if byte < 32 else "looking for beginning of value"
    return f"invalid character {_quoted(byte)} {context}"


def _quoted(byte: int) -> str:
    if byte < 32:
        return f"'\\x{byte:02x}'"
    return "'\\''" if byte == 39 else f"'{chr(byte)}'"

"""Go templates, for --format: evaluation over decoded JSON and over rows of a table.

A dict stands for Go's struct or map, a Row for a value with methods. Source: the documentation of Go's
text/template and fmt; the observed output of docker 28.
"""

from proa.cli.template import Node, Pipe, TemplateError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


class Missing:
    """The value of a key that is not there; it prints as Go's `<no value>`."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key


class Null:
    """A null of a JSON object; its key tells how Go would print the field's zero."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key


class Row:
    """A value with methods, as Docker's table rows are: name to a function of the row's data.

    A method that takes arguments (`.Label "x"`) is in `calls`; `kind` is what errors call its type.
    """

    __slots__ = ("calls", "data", "fields", "kind")

    def __init__(
        self,
        data: "Any",
        fields: "dict[str, Callable[[Any], Any]]",
        calls: "dict[str, Callable[..., Any]] | None" = None,
        kind: str = "row",
    ) -> None:
        self.data = data
        self.kind = kind
        self.fields = fields
        self.calls = calls or {}

    def as_dict(self) -> "dict[str, Any]":
        """All the fields, for `json .`, in the order of their names."""
        return {name: self.fields[name](self.data) for name in sorted(self.fields)}


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Template:
    """A parsed template; `render` gives its text for one value."""

    def __init__(self, source: str) -> None:
        from proa.cli.template_functions import FUNCTIONS

        self.source = source
        self.functions: dict[str, Callable[..., Any]] = dict(FUNCTIONS)
        self.nodes = parse(source, self.functions)

    def render(self, value: "Any") -> str:
        """Raises TemplateError when the template does not fit the value."""
        run = _Run(self, value)
        run.walk(self.nodes, value)
        return "".join(run.out)


class _Run:
    def __init__(self, template: Template, root: "Any") -> None:
        self.template = template
        self.out: list[str] = []
        self.scopes: list[list[Any]] = [["$", root]]

    def fail(self, node: Node, reason: str, text: str = "") -> TemplateError:
        before = self.template.source[: node.position]
        line = before.count("\n") + 1
        column = len(before.rpartition("\n")[2].encode())
        return TemplateError(f'template: :{line}:{column}: executing "" at <{text or node.text}>: {reason}')

    def walk(self, nodes: list[Node], dot: "Any") -> None:
        for node in nodes:
            if node.kind == "text":
                self.out.append(node.text)
            elif node.kind == "action":
                pipe: Pipe = node.parts[0]
                value = self.pipeline(pipe, dot)
                if not pipe.variables:
                    self.out.append(text_of(value))
            elif node.kind == "break":
                raise _Break
            elif node.kind == "continue":
                raise _Continue
            else:
                depth = len(self.scopes)
                getattr(self, node.kind + "_")(node, dot)
                del self.scopes[depth:]

    def if_(self, node: Node, dot: "Any") -> None:
        pipe, body, otherwise = node.parts
        self.walk(body if truth(self.pipeline(pipe, dot)) else otherwise, dot)

    def with_(self, node: Node, dot: "Any") -> None:
        pipe, body, otherwise = node.parts
        value = self.pipeline(pipe, dot)
        if truth(value):
            self.walk(body, value)
        else:
            self.walk(otherwise, dot)

    def range_(self, node: Node, dot: "Any") -> None:
        pipe, body, otherwise = node.parts
        variables = pipe.variables
        value = self.commands(pipe, dot)
        found = False
        for key, item in self._items(node, value):
            found = True
            depth = len(self.scopes)
            if len(variables) == 1:
                self.bind(variables[0], item, pipe.declares)
            elif variables:
                self.bind(variables[0], key, pipe.declares)
                self.bind(variables[1], item, pipe.declares)
            try:
                self.walk(body, item)
            except _Break:
                break
            except _Continue:
                continue
            finally:
                del self.scopes[depth:]
        if not found:
            self.walk(otherwise, dot)

    def _items(self, node: Node, value: "Any") -> "Iterator[tuple[Any, Any]]":
        if isinstance(value, dict):
            for key in sorted(value):
                yield key, wrap(key, value[key])
        elif isinstance(value, (list, tuple)):
            yield from enumerate(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield from ((index, index) for index in range(value))
        elif not (value is None or isinstance(value, (Missing, Null))):
            raise self.fail(node, f"range can't iterate over {text_of(value)}")

    def bind(self, name: str, value: "Any", declare: bool) -> None:
        if not declare:
            for scope in reversed(self.scopes):
                if scope[0] == name:
                    scope[1] = value
                    return
        self.scopes.append([name, value])

    def pipeline(self, pipe: Pipe, dot: "Any") -> "Any":
        value = self.commands(pipe, dot)
        for name in pipe.variables:
            self.bind(name, value, pipe.declares)
        return value

    def commands(self, pipe: Pipe, dot: "Any") -> "Any":
        final: tuple[Any, ...] = ()
        for command in pipe.commands:
            final = (self.command(command, dot, final),)
        return final[0]

    def command(self, operands: list[Node], dot: "Any", final: "tuple[Any, ...]") -> "Any":
        first, rest = operands[0], operands[1:]
        if first.kind == "function":
            return self.call(first, rest, dot, final)
        if first.kind in ("field", "variable", "chain") and (rest or final):
            return self.method(first, [*(self.value(node, dot) for node in rest), *final], dot)
        if rest or final:
            raise self.fail(first, f"can't give argument to non-function {first.text}")
        return self.value(first, dot)

    def method(self, node: Node, arguments: "list[Any]", dot: "Any") -> "Any":
        fields = node.parts[-1]
        if node.kind == "variable":
            base = self.lookup(node.parts[0])
        else:
            base = dot if node.kind == "field" else self.value(node.parts[0], dot)
        receiver = self.chain(node, base, fields[:-1])
        if isinstance(receiver, Row) and fields and fields[-1] in receiver.calls:
            return receiver.calls[fields[-1]](receiver.data, *arguments)
        raise self.fail(
            node, f"{fields[-1] if fields else node.text} has arguments but cannot be invoked as function"
        )

    def call(self, node: Node, rest: list[Node], dot: "Any", final: "tuple[Any, ...]") -> "Any":
        name = node.parts[0]
        if name in ("and", "or"):
            return self.shortcut(name, rest, dot, final)
        arguments = [*(self.value(operand, dot) for operand in rest), *final]
        try:
            return self.template.functions[name](*(plain(argument) for argument in arguments))
        except TemplateError:
            raise
        except (TypeError, ValueError, IndexError, KeyError) as exc:
            if "argument" in str(exc) and isinstance(exc, TypeError) and "for comparison" not in str(exc):
                raise self.fail(node, f"wrong number of args for {name}: got {len(arguments)}") from None
            text = " ".join((name, *(operand.text for operand in rest)))
            raise self.fail(node, f"error calling {name}: {exc}", text) from None

    def shortcut(self, name: str, rest: list[Node], dot: "Any", final: "tuple[Any, ...]") -> "Any":
        value: Any = None
        for operand in rest:
            value = self.value(operand, dot)
            if truth(value) == (name == "or"):
                return value
        return final[0] if final else value

    def value(self, node: Node, dot: "Any") -> "Any":
        kind = node.kind
        if kind == "dot":
            return dot
        if kind == "field":
            return self.chain(node, dot, node.parts[0])
        if kind == "variable":
            return self.chain(node, self.lookup(node.parts[0]), node.parts[1])
        if kind in ("string", "number", "bool"):
            return node.parts[0]
        if kind == "pipe":
            return self.pipeline(node.parts[0], dot)
        if kind == "chain":
            return self.chain(node, self.value(node.parts[0], dot), node.parts[1])
        if kind == "function":
            return self.call(node, [], dot, ())
        if kind == "nil":
            return None
        raise self.fail(node, f"can't evaluate {kind}")

    def lookup(self, name: str) -> "Any":
        for scope in reversed(self.scopes):
            if scope[0] == name:
                return scope[1]
        raise TemplateError(f"template: undefined variable: {name}")

    def chain(self, node: Node, value: "Any", fields: tuple[str, ...]) -> "Any":
        for name in fields:
            value = self.field(node, value, name)
        return value

    def field(self, node: Node, value: "Any", name: str) -> "Any":
        if isinstance(value, dict):
            if name in value:
                return wrap(name, value[name])
            if (spelled := GO_NAMES.get(name)) in value:
                return wrap(name, value[spelled])
            if _could_be(name, value):
                return Missing(name)
            raise self.fail(node, f'map has no entry for key "{name}"')
        if isinstance(value, Row):
            if name in value.fields:
                return value.fields[name](value.data)
            if name in value.calls:
                raise self.fail(node, f"wrong number of args for {name}: want 1 got 0")
            raise self.fail(node, f"can't evaluate field {name} in type {value.kind}")
        if isinstance(value, Missing):
            raise self.fail(node, f'map has no entry for key "{value.key}"')
        if isinstance(value, Null):
            raise self.fail(node, f"nil pointer evaluating {value.key}.{name}")
        if value is None:
            raise self.fail(node, f"nil data; no entry for key {_quoted(name)}")
        raise self.fail(node, f"can't evaluate field {name} in type {go_type(value)}")


def _quoted(text: str) -> str:
    return f'"{text}"'


GO_NAMES = {
    "APIVersion": "ApiVersion",
    "CPUCfsPeriod": "CpuCfsPeriod",
    "CPUCfsQuota": "CpuCfsQuota",
    "DNS": "Dns",
    "DNSOptions": "DnsOptions",
    "DNSSearch": "DnsSearch",
    "HTTPProxy": "HttpProxy",
    "HTTPSProxy": "HttpsProxy",
    "HostIP": "HostIp",
    "ID": "Id",
    "NanoCPUs": "NanoCpus",
}
"""Docker's templates see Go's structs: their fields that the API spells otherwise."""


def _could_be(name: str, value: "dict[str, Any]") -> bool:
    """Whether a key that is absent is one that the daemon leaves out when empty, or a map's own key."""
    struct = bool(value) and all(key[:1].isupper() for key in value)
    return not struct or not name[:1].isupper() or name in _kinds()


def wrap(key: str, value: "Any") -> "Any":
    """A null remembers whose it is."""
    return Null(key) if value is None else value


def plain(value: "Any") -> "Any":
    """The argument that a function gets."""
    if isinstance(value, Null):
        kind = _kinds().get(value.key)
        return [] if kind == "list" else {} if kind == "map" else None
    return None if isinstance(value, Missing) else value


def truth(value: "Any") -> bool:
    """Go's truth: not the zero value."""
    return not isinstance(value, (Missing, Null)) and (isinstance(value, Row) or bool(value))


def go_type(value: "Any") -> str:
    """Go's name for the type of a decoded value."""
    if isinstance(value, bool):
        return "bool"
    names = {
        str: "string",
        int: "int",
        float: "float64",
        list: "[]interface {}",
        dict: "map[string]interface {}",
    }
    return names.get(type(value), "interface {}")


def text_of(value: "Any") -> str:
    """The value as Go's fmt prints it with %v."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(text_of(wrap('', item)) for item in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{text_of(wrap(key, value[key]))}' for key in sorted(value))}]"
    if isinstance(value, Null):
        return {"list": "[]", "map": "map[]"}.get(_kinds().get(value.key, ""), "<nil>")
    if value is None or isinstance(value, Missing):
        return "<no value>"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Row):
        return text_of(value.as_dict())
    return str(value)


def _float(value: float) -> str:
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}e{int(power):+03d}" if exponent else text


_KINDS: dict[str, str] = {}


def _kinds() -> dict[str, str]:
    """Field name to list, map or value, over all of the API's structs: read when a null must be printed."""
    if not _KINDS:
        from proa.cli.schema_kinds import field_kinds

        _KINDS.update(field_kinds())
    return _KINDS

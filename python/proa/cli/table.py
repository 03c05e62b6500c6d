"""Tables as Docker prints them: aligned columns, and rows through a Go template.

Source: the documentation of Go's text/tabwriter; the observed output of docker 28.
"""

from proa.cli.failure import Failure
from proa.cli.streams import write_all
from proa.cli.template import TemplateError
from proa.cli.template_run import Row, Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


def align(text: str, minimum: int = 10, padding: int = 3) -> str:
    """Cells ended by tabs, in columns: a column is a run of adjacent lines that have that cell."""
    rows = [line.split("\t") for line in text.split("\n")]
    widths: list[list[int]] = [[0] * (len(row) - 1) for row in rows]
    for start in range(len(rows)):
        for column in range(len(rows[start]) - 1):
            if widths[start][column]:
                continue
            end = start
            while end < len(rows) and len(rows[end]) - 1 > column:
                end += 1
            cells = [_width(row[column]) for row in rows[start:end]]
            width = max(minimum, max(cells) + padding)
            for index in range(start, end):
                widths[index][column] = width
    lines = []
    for row, columns in zip(rows, widths, strict=True):
        cells_out = [cell + " " * (width - _width(cell)) for cell, width in zip(row, columns, strict=False)]
        lines.append("".join(cells_out) + row[-1])
    return "\n".join(lines)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


class Format:
    """The --format of a list: which template, and whether its rows are a table with a header."""

    __slots__ = ("source", "table")

    def __init__(self, source: str, default: str, raw: str = "") -> None:
        """`default` is the table, `raw` what Docker has of old for programs: a line for each field."""
        source = source or "table"
        if source == "table":
            source = default
        if source == "raw" and raw:
            source = raw
        if source == "json":
            source = "{{json .}}"
        self.table = source.startswith("table")
        text = source.removeprefix("table") if self.table else source
        self.source = text.strip(" ").replace("\\t", "\t").replace("\\n", "\n")


def render(
    rows: "Iterable[Any]",
    form: Format,
    fields: "dict[str, Callable[[Any], Any]]",
    headers: dict[str, str],
    calls: "dict[str, Callable[..., Any]] | None" = None,
    kind: str = "row",
) -> str:
    """All the rows through the template, under a header for a table; `kind` is Docker's name of a row's type.

    Raises Failure.
    """
    try:
        template = Template(form.source)
        body = [template.render(Row(row, fields, calls, kind)) + "\n" for row in rows]
    except TemplateError as exc:
        raise Failure(f"template parsing error: {exc}") from None
    if not form.table:
        return "".join(body)
    return align(_header(form.source, headers) + "\n" + "".join(body))


def _header(source: str, headers: dict[str, str]) -> str:
    template = Template(source)

    def same(value: "Any", *_: "Any") -> "Any":
        return value

    for name in ("json", "split", "join", "title", "lower", "upper", "truncate"):
        template.functions[name] = same
    label: dict[str, Callable[..., Any]] = {
        "Label": lambda _, name: name.rpartition(".")[2].replace("-", " ").replace("_", " ")
    }
    fields: dict[str, Callable[[Any], Any]] = {name: _constant(text) for name, text in headers.items()}
    try:
        return template.render(Row(None, fields, label))
    except TemplateError:
        # A template that only fits values has no header.
        return ""


def _constant(text: str) -> "Callable[[Any], str]":
    return lambda _: text


def show(text: str | bytes) -> None:
    """Print it. Raises BrokenPipeError when nobody reads."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    try:
        write_all(1, data)
    except Failure as exc:
        if isinstance(exc.__cause__, BrokenPipeError):
            raise BrokenPipeError from None
        raise


def labels(values: "dict[str, str] | None") -> str:
    """`a=1,b=2`, sorted."""
    return ",".join(sorted(f"{key}={value}" for key, value in (values or {}).items()))


def natural(text: str) -> list[tuple[int, int, str]]:
    """Numbers in a text sort as numbers."""
    key: list[tuple[int, int, str]] = []
    position = 0
    while position < len(text):
        end = position
        if text[position].isdigit():
            while end < len(text) and text[end].isdigit():
                end += 1
            key.append((0, int(text[position:end]), ""))
        else:
            end = position + 1
            key.append((1, 0, text[position]))
        position = end
    return key

"""Tables, sizes, durations, ports, JSON: what the CLI prints."""

import json

import pytest

from proa.cli import human, jsontext, logs, ps, stats, system
from proa.cli.table import Format, align, render


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert align("A\tB\tC\nlong cell here\tx\ty\n") == (
        "A                B         C\nlong cell here   x         y\n"
    )


def test_a_shorter_row_ends_the_columns_above() -> None:
    assert align("a\tb\n\nlong long long\tc\n") == "a         b\n\nlong long long   c\n"


def test_wide_letters_take_two_columns() -> None:
    assert align("界\tx\n", minimum=4, padding=1) == "界  x\n"


def test_header_keeps_what_functions_would_change() -> None:
    form = Format("table {{upper .ID}}\\t{{.Name}}", "")
    text = render(
        [{"i": "a"}],
        form,
        {"ID": lambda row: row["i"], "Name": lambda row: "n"},
        {"ID": "Id", "Name": "NAME"},
    )
    assert text == "Id        NAME\nA         n\n"


def test_json_rows() -> None:
    assert render([1], Format("json", ""), {"N": lambda row: row}, {}) == '{"N":1}\n'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (5399, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (731 * 86400, "2 years"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert human.duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (4261550, "4.26MB"), (1234567890, "1.23GB")]
)
def test_sizes(size: int, text: str) -> None:
    assert human.decimal_size(size, 3) == text


def test_binary_sizes() -> None:
    assert human.binary_size(2055208960) == "1.914GiB"


def test_ellipsis_counts_columns() -> None:
    assert human.ellipsis("abcdef", 4) == "abc…"
    assert human.ellipsis("界界界", 5) == "界…"


def test_ports_in_a_row_are_one_range() -> None:
    def port(number: int, kind: str = "tcp", address: str = "", public: int = 0) -> dict[str, object]:
        found: dict[str, object] = {"PrivatePort": number, "Type": kind}
        return {**found, "IP": address, "PublicPort": public} if address else found

    assert ps.ports([port(82), port(80), port(81), port(90)]) == "80-82/tcp, 90/tcp"
    assert ps.ports([port(80, address="0.0.0.0", public=8080)]) == "0.0.0.0:8080->80/tcp"
    assert ps.ports([port(80, address="::", public=80)]) == "[::]:80->80/tcp"


def test_names_without_legacy_links() -> None:
    assert ps.names({"Names": ["/a/link", "/a"]}, True) == "a"
    assert ps.names({"Names": ["/a/link", "/a"]}, False) == "a/link,a"


def test_json_as_go_prints_it() -> None:
    assert jsontext.pretty([{"A": [], "B": {}, "C": ["x"], "D": "<é>"}]) == (
        '[\n    {\n        "A": [],\n        "B": {},\n        "C": [\n            "x"\n        ],\n'
        '        "D": "<é>"\n    }\n]'
    )


@pytest.mark.parametrize(
    "value",
    [{"A": [1, True, None, "x"], "B": {}, "C": ['q"', "\\"]}, "\n", 1.5, {1: "a"}, ["é"], ("\x7f",), [], ""],
)
def test_json_with_and_without_the_accelerator(value: object) -> None:
    encoded = jsontext.encode(value)
    assert json.loads(encoded) == json.loads(json.dumps(value))
    assert b" " not in encoded


def test_bytes_that_are_no_text_become_the_replacement_character() -> None:
    assert jsontext.encode(["a\udcff", "\U0001f600"]) == '["a\ufffd","\U0001f600"]'.encode()


def test_objects_of_a_stream() -> None:
    assert jsontext.decode_many('{"a":1}\r\n{"b":2}{"c"') == ([{"a": 1}, {"b": 2}], '{"c"')


def test_moments() -> None:
    assert logs.moment("1700000000.5") == "1700000000.5"
    assert logs.moment("2023-11-14T22:13:20.25Z") == "1700000000.250000000"
    with pytest.raises(ValueError, match="failed to parse"):
        logs.moment("yesterday")


def test_events_read_like_dockers() -> None:
    event = {
        "Type": "container",
        "Action": "start",
        "Actor": {"ID": "abc", "Attributes": {"name": "web", "image": "busybox"}},
        "timeNano": 1700000000_000000005,
    }
    text = system.event_text(event)
    assert text.endswith(" container start abc (image=busybox, name=web)")
    assert ".000000005" in text


def test_processor_and_memory_use() -> None:
    sample = {
        "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
        "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
        "memory_stats": {"usage": 100, "limit": 1000, "stats": {"inactive_file": 30}},
    }
    assert stats.cpu_percent(sample) == pytest.approx(40.0)
    assert stats.memory_used(sample) == 70

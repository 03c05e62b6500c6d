"""Command lines parsed as pflag parses them."""

import pytest

from proa.cli.failure import Failure, HelpRequested
from proa.cli.flags import Command, Globals, parse
from proa.cli.rootflags import parse_root

FLAGS = (
    ("all", "a", "bool", "", "All"),
    ("detach", "d", "bool", "", "Detach"),
    ("env", "e", "list:env", "", "Environment"),
    ("interactive", "i", "bool", "", "Interactive"),
    ("memory", "m", "bytes", "", "Memory"),
    ("name", "", "string", "", "Name"),
    ("publish", "p", "list", "", "Publish"),
    ("tty", "t", "bool", "", "Terminal"),
)


def command(interspersed: bool = True, minimum: int = 0, maximum: int | None = None) -> Command:
    return Command("do", "[OPTIONS]", "Do", lambda _: 0, FLAGS, minimum, maximum, interspersed)


@pytest.mark.parametrize(
    ("argv", "values", "args"),
    [
        (["-itd", "x"], {"interactive": True, "tty": True, "detach": True}, ["x"]),
        (["-p80:80", "-p=81:81", "-p", "82:82"], {"publish": ["80:80", "81:81", "82:82"]}, []),
        (["--name=a=b", "x"], {"name": "a=b"}, ["x"]),
        (["--name", "-x"], {"name": "-x"}, []),
        (["--name="], {"name": ""}, []),
        (["-ie", "A=1"], {"interactive": True, "env": ["A=1"]}, []),
        (["--tty=false", "-d=0"], {"tty": False, "detach": False}, []),
        (["x", "-a", "--", "-d", "y"], {"all": True}, ["x", "-d", "y"]),
        (["-", "-a"], {"all": True}, ["-"]),
        (["-m1g"], {"memory": 1 << 30}, []),
    ],
)
def test_interspersed(argv: list[str], values: dict[str, object], args: list[str]) -> None:
    parsed = parse(command(), argv, Globals())
    assert parsed.values == values
    assert parsed.args == args


def test_flags_after_the_first_argument_belong_to_it() -> None:
    parsed = parse(command(interspersed=False), ["-d", "image", "-d", "--name", "x"], Globals())
    assert parsed.values == {"detach": True}
    assert parsed.args == ["image", "-d", "--name", "x"]


def test_double_dash_ends_the_flags_and_goes_away() -> None:
    assert parse(command(interspersed=False), ["--", "-d"], Globals()).args == ["-d"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-az"], "unknown shorthand flag: 'z' in -az"),
        (["--name"], "flag needs an argument: --name"),
        (["-p"], "flag needs an argument: 'p' in -p"),
        (["--=x"], "bad flag syntax: --=x"),
        (
            ["--tty=x"],
            'invalid argument "x" for "-t, --tty" flag: strconv.ParseBool: parsing "x": invalid syntax',
        ),
        (["-m", "x"], 'invalid argument "x" for "-m, --memory" flag: invalid size: \'x\''),
    ],
)
def test_bad_flags(argv: list[str], message: str) -> None:
    with pytest.raises(Failure) as caught:
        parse(command(), argv, Globals())
    assert caught.value.code == 125
    assert str(caught.value) == (
        f"{message}\n\nUsage:  proa do [OPTIONS]\n\nRun 'proa do --help' for more information"
    )


def test_help_comes_before_the_count_of_arguments() -> None:
    with pytest.raises(HelpRequested):
        parse(command(minimum=3), ["--help"], Globals())


@pytest.mark.parametrize(
    ("minimum", "maximum", "words"),
    [
        (2, None, "requires at least 2 arguments"),
        (2, 2, "requires 2 arguments"),
        (0, 0, "accepts no arguments"),
    ],
)
def test_count(minimum: int, maximum: int | None, words: str) -> None:
    with pytest.raises(Failure, match=words):
        parse(command(minimum=minimum, maximum=maximum), ["x"], Globals())


def test_a_flag_costs_its_neighbours_nothing_when_repeated() -> None:
    assert parse(command(), ["--name", "a", "--name", "b"], Globals()).values == {"name": "b"}


def test_root_options_end_at_the_command() -> None:
    options, rest = parse_root(["-D", "-H", "tcp://x", "--tlsverify", "run", "-D"])
    assert (options.debug, options.hosts, options.tlsverify) == (True, ["tcp://x"], True)
    assert rest == ["run", "-D"]

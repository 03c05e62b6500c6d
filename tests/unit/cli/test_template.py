"""Go templates over decoded JSON."""

import pytest

from proa.cli.template import TemplateError
from proa.cli.template_run import Row, Template

VALUE = {
    "State": {"Status": "running", "Pid": 12, "Error": ""},
    "Config": {
        "Env": ["A=1", "B=2"],
        "Labels": {"a": "b", "c.d": "e"},
        "Entrypoint": None,
        "Cmd": [],
        "Tty": False,
    },
    "NetworkSettings": {
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/tcp": None},
        "Networks": {"b": {"IPAddress": "10.0.0.2"}, "a": {"IPAddress": "10.0.0.1"}},
    },
    "Size": 1.5,
    "Name": "/web",
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{.State.Status}}", "running"),
        ("plain", "plain"),
        (
            "{{.Config.Env}} {{.Config.Labels}} {{.Config.Tty}} {{.Size}}",
            "[A=1 B=2] map[a:b c.d:e] false 1.5",
        ),
        ("{{json .Config.Labels}}", '{"a":"b","c.d":"e"}'),
        ('{{json "<&>"}}', '"<&>"'),
        (
            "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}} {{end}}",
            "a=10.0.0.1 b=10.0.0.2 ",
        ),
        ("{{range .Config.Env}}[{{.}}]{{else}}none{{end}}", "[A=1][B=2]"),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{range $i, $e := .Config.Env}}{{if $i}},{{end}}{{$e}}{{end}}", "A=1,B=2"),
        ("{{range .Config.Env}}{{if eq . `B=2`}}{{break}}{{end}}{{.}}{{end}}", "A=1"),
        ("{{range .Config.Env}}{{if eq . `A=1`}}{{continue}}{{end}}{{.}}{{end}}", "B=2"),
        ("{{if .State.Health}}sick{{else if .State.Pid}}pid{{else}}none{{end}}", "pid"),
        ("{{with .State}}{{.Pid}}{{$.Name}}{{end}}", "12/web"),
        ("{{with .State.Error}}bad{{else}}good{{end}}", "good"),
        ('{{index .Config.Labels "c.d"}}|{{index .Config.Labels "no"}}|', "e||"),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{.Config.Labels.nope}}", "<no value>"),
        ("{{.Config.Entrypoint}}", "[]"),
        ("{{join .Config.Env `,`}} {{split `a/b` `/`}}", "A=1,B=2 [a b]"),
        ("{{upper `a`}}{{lower `B`}}{{title `some words`}}{{truncate `abcdef` 3}}", "AbSome Wordsabc"),
        ("{{pad `x` 1 2}}|{{pad `` 1 2}}", " x  |"),
        ("{{.State.Status | upper | printf `%-10s|%d` 7}}", "%!s(int=7)|%!d(string=RUNNING)"),
        ("{{printf `%s is %d (%q) %5.1f%%` .Name .State.Pid .Name .Size}}", '/web is 12 ("/web")   1.5%'),
        ("{{println .Name 1}}{{print 1 2 `a` 3}}", "/web 1\n1 2a3"),
        ("{{len .Config.Env}}{{len .Name}}", "24"),
        ("{{slice .Name 1}}{{slice .Config.Env 0 1}}", "web[A=1]"),
        ("{{and 1 0}}{{or 0 `x`}}{{not true}}", "0xfalse"),
        ("{{eq 1 2 1}}{{ne 1 2}}{{lt 1 2}}{{le 2 2}}{{gt 1 2}}{{ge 1 2}}", "truetruetruetruefalsefalse"),
        ("{{$x := 1}}{{$x}}{{$x = 2}}{{$x}}{{with $y := 3}}{{$y}}{{end}}", "123"),
        ("{{if true}}{{$x := 1}}{{end}}ok", "ok"),
        ("a {{- /* gone */ -}} b", "ab"),
        ("a {{- .State.Pid -}} b", "a12b"),
        ("{{`raw\n`}}{{\"esc\\t\\u00e9\"}}{{'a'}}", "raw\nesc\té97"),
        ("{{html `<a>`}} {{urlquery `a b&`}}", "&lt;a&gt; a+b%26"),
        ("{{true}} {{0x10}} {{1.5e3}}", "true 16 1500"),
    ],
)
def test_renders(source: str, text: str) -> None:
    assert Template(source).render(VALUE) == text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{", "template: :1: unclosed action"),
        ("{{.A", "template: :1: unclosed action"),
        ("{{nope .A}}", 'template: :1: function "nope" not defined'),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{if .A}}", "template: :1: unexpected EOF"),
        ("\n\n{{if}}{{end}}", "template: :3: missing value for if"),
        ("{{$x}}", 'template: :1: undefined variable "$x"'),
        ("{{(.A}}", "template: :1: unclosed left paren"),
        ("{{`a}}", "template: :1: unterminated raw quoted string"),
        ("{{break}}", "template: :1: {{break}} outside {{range}}"),
        ("{{nil}}", "template: :1: nil is not a command"),
        ("{{}}", "template: :1: missing value for command"),
    ],
)
def test_does_not_parse(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{.Nope}}", 'template: :1:2: executing "" at <.Nope>: map has no entry for key "Nope"'),
        ("{{.State.Nope}}", 'template: :1:8: executing "" at <.State.Nope>: map has no entry for key "Nope"'),
        (
            "{{.State.Health.Status}}",
            'template: :1:8: executing "" at <.State.Health.Status>: map has no entry for key "Health"',
        ),
        ("{{.Name.X}}", 'template: :1:7: executing "" at <.Name.X>: can\'t evaluate field X in type string'),
        ("{{len 3}}", 'template: :1:2: executing "" at <len 3>: error calling len: len of type int'),
    ],
)
def test_does_not_fit(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source).render(VALUE)
    assert str(caught.value) == message


def test_rows_have_fields_and_calls() -> None:
    row = Row(
        {"n": 1}, {"B": lambda data: data["n"], "A": lambda data: "x"}, {"Label": lambda _, name: f"<{name}>"}
    )
    assert Template('{{.B}} {{.Label "k"}} {{json .}}').render(row) == '1 <k> {"A":"x","B":1}'
    with pytest.raises(TemplateError, match="can't evaluate field C"):
        Template("{{.C}}").render(row)


def test_fields_as_go_spells_them() -> None:
    """Docker's templates see its structs, whose fields are not always spelled as the API's members."""
    found = {"Id": "x", "HostConfig": {"NanoCpus": 5, "Dns": ["d"]}, "Ports": [{"HostIp": "::"}]}
    text = "{{.ID}} {{.Id}} {{.HostConfig.NanoCPUs}} {{.HostConfig.DNS}} {{range .Ports}}{{.HostIP}}{{end}}"
    assert Template(text).render(found) == "x x 5 [d] ::"
    assert Template("{{js .}}").render("<a>'\"=\\\n") == "\\u003Ca\\u003E\\'\\\"\\u003D\\\\\\u000A"

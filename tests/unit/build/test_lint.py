"""Build checks: each rule with what breaks it and what does not."""

import pytest

from proa.build.dockerfile.parsing import parse_dockerfile
from proa.build.lint import Settings, lint, settings_of
from proa.errors import InvalidParameter
from proa.ignore import Patterns


def findings(text: str, ignore: Patterns | None = None) -> list[str]:
    return [str(finding) for finding in lint(parse_dockerfile(text), ignore)]


def rules(text: str) -> list[str]:
    return [finding.rule for finding in lint(parse_dockerfile(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a AS Base", "StageNameCasing: Stage name 'Base' should be lowercase (line 1)"),
        ("FROM a as base", "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"),
        ("FROM a\nRUN x \\\n\n  y", "NoEmptyContinuation: Empty continuation line (line 4)"),
        (
            "FROM a\nrun x",
            "ConsistentInstructionCasing: Command 'run' should match the case of the command majority "
            "(uppercase) (line 2)",
        ),
        (
            "from a\nrun x\nEnv a=b",
            "ConsistentInstructionCasing: Command 'Env' should match the case of the command majority "
            "(lowercase) (line 3)",
        ),
        (
            "FROM a AS b\nFROM c AS b",
            'DuplicateStageName: Duplicate stage name "b", stage names should be unique (line 2)',
        ),
        (
            "FROM a AS context",
            'ReservedStageName: Stage name should not use the same name as reserved stage "context" (line 1)',
        ),
        (
            "FROM a\nCMD x y",
            "JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related "
            "to OS signals (line 2)",
        ),
        (
            "FROM a\nMAINTAINER me",
            "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)",
        ),
        (
            "ARG VERSION=1\nFROM a${VERSON}",
            "UndefinedArgInFrom: FROM argument 'VERSON' is not declared (did you mean VERSION?) (line 2)",
        ),
        (
            "FROM a\nENV D=C:\\\\go\nWORKDIR $D",
            'WorkdirRelativePath: Relative workdir "C:\\\\go" can have unexpected results if the base image '
            "changes (line 3)",
        ),
        ("FROM scratch\nCOPY $foo .", "UndefinedVar: Usage of undefined variable '$foo' (line 2)"),
        (
            "FROM a\nENV PATH=$PAHT:/bin",
            "UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?) (line 2)",
        ),
        (
            "ARG VERSION=1\nFROM a\nLABEL v=$VERSION",
            "UndefinedVar: Usage of undefined variable '$VERSION' (line 3)",
        ),
        (
            "FROM a\nWORKDIR app/src",
            'WorkdirRelativePath: Relative workdir "app/src" can have unexpected results if the base image '
            "changes (line 2)",
        ),
        (
            "FROM a\nARG AWS_SECRET_ACCESS_KEY",
            "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data "
            '(ARG "AWS_SECRET_ACCESS_KEY") (line 2)',
        ),
        (
            "FROM a\nENV a b",
            'LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format '
            "(line 2)",
        ),
        (
            "FROM --platform=$TARGETPLATFORM a",
            "RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as "
            "this is the default behavior (line 1)",
        ),
        (
            'FROM a\nCMD ["x"]\nENV a=b\nCMD ["y"]',
            "MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage "
            "because only the last one will be used (line 2)",
        ),
        (
            "ARG TAG\nFROM a:${TAG}",
            "InvalidDefaultArgInFrom: Default value for ARG a:${TAG} results in empty or invalid base image "
            "name (line 2)",
        ),
        (
            "FROM --platform=linux/amd64 a",
            "FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value "
            '"linux/amd64" (line 1)',
        ),
        (
            "FROM a\nEXPOSE 80/TCP",
            "ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase (line 2)",
        ),
        (
            "FROM a\nEXPOSE 127.0.0.1:80:80",
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, "
            "found '127.0.0.1:80:80' (line 2)",
        ),
    ],
)
def test_a_violation(text: str, expected: str) -> None:
    assert findings(text) == [expected]


def test_what_buildkit_tells_of_variables() -> None:
    """A default does not make one known; neither EXPOSE nor commands are looked at."""
    text = "FROM a\nENV FOO=1\nLABEL a=${FO:-x}\nCOPY --chmod=$FOOO a b\nEXPOSE $FOP\nRUN echo $FOP\n"
    told = [each.partition(": ")[2] for each in findings(text)]
    assert told == [
        "Usage of undefined variable '$FO' (did you mean $FOO?) (line 3)",
        "Usage of undefined variable '$FOOO' (did you mean $FOO?) (line 4)",
    ]
    assert [each.partition(":")[0] for each in findings("FROM $NONE")] == [
        "InvalidDefaultArgInFrom",
        "UndefinedArgInFrom",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "from a as b",
        "FROM a AS b\nFROM b AS c\nWORKDIR /x\nFROM c\nWORKDIR y",
        'FROM a\nSHELL ["/bin/bash", "-c"]\nCMD x',
        "FROM a\nENV PUBLIC_KEY=x TOKENIZER=y",
        "FROM a\nENV B=$SOMETHING_OF_THE_BASE",
        "FROM scratch\nENV A=1\nENV B=$A\nARG E\nLABEL f=$E$HTTP_PROXY",
        "ARG BASE=busybox\nFROM ${BASE}\nFROM b-$TARGETARCH",
        "ARG TAG\nFROM a:${TAG:-latest}",
        "FROM --platform=linux/amd64 a AS build-amd64\nFROM --platform=$BUILDPLATFORM a",
        "ARG DIR=/x\nFROM a\nARG DIR\nWORKDIR $DIR/y\nRUN echo $undefined",
        "FROM a\nEXPOSE 80/udp 90",
        "# something else\nFROM a AS b",
    ],
)
def test_no_violation(text: str) -> None:
    assert findings(text) == []


def test_files_that_are_ignored_only_where_asked_for() -> None:
    ignore = Patterns(["*.log", "!keep.log"])
    text = "FROM a\nCOPY x.log ./keep.log y /\nADD https://example.com/z.log x.log /\nCOPY --from=b x.log /\n"
    assert findings(text, ignore) == []
    assert findings(f"# check=experimental=CopyIgnoredFile\n{text}", ignore) == [
        'CopyIgnoredFile: Attempting to Copy file "x.log" that is excluded by .dockerignore (line 3)',
        'CopyIgnoredFile: Attempting to Add file "x.log" that is excluded by .dockerignore (line 4)',
    ]


def test_descriptions_only_where_asked_for() -> None:
    text = "# check=experimental=all\n\n# base is it\nFROM a AS base\n# nonsense\nARG x\n# y is it\nARG y\n"
    assert findings(text) == [
        "InvalidDefinitionDescription: Comment for argument should follow the format: `# x <description>` "
        "(line 6)"
    ]


def test_settings_of_the_file_and_of_the_argument() -> None:
    text = "# check=skip=FromAsCasing,StageNameCasing;error=true\nFROM a as B\n"
    file = parse_dockerfile(text)
    assert settings_of(file) == Settings(frozenset(("fromascasing", "stagenamecasing")), frozenset(), True)
    assert lint(file) == []
    assert settings_of(file, "skip=all").error is False
    assert rules("FROM a as B\n") == ["FromAsCasing", "StageNameCasing"]
    assert lint(file, None, settings_of(file, "skip=all")) == []
    for wrong in ("skip", "x=y", "error=maybe"):
        with pytest.raises(InvalidParameter, match="check option"):
            settings_of(file, wrong)


def test_the_page_of_a_rule() -> None:
    found = lint(parse_dockerfile("FROM a\nCMD x\n"))
    assert found[0].url == "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"


def test_an_image_that_is_known_says_what_is_defined() -> None:
    text = (
        "ARG tag=1\nFROM base:$tag AS one\nWORKDIR $HOME_OF_BASE\nWORKDIR /$nowhere\n"
        "FROM one\nWORKDIR /$HOME_OF_BASE\nWORKDIR /$neither\nFROM other\nWORKDIR /$unknown\n"
    )
    environments = {"base:1": ["HOME_OF_BASE=/home"]}
    found = [finding.message for finding in lint(parse_dockerfile(text), environment=environments.get)]
    assert found == [
        "Usage of undefined variable '$nowhere'",
        "Usage of undefined variable '$neither'",
    ]

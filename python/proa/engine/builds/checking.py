"""Build checks of one build: run over its Dockerfile, told to its client, fatal where the file says so."""

from collections.abc import Sequence

from proa.build.dockerfile.parsing import Dockerfile
from proa.build.dockerfile.source import excerpt
from proa.build.lint import Environment, lint, settings_of
from proa.engine.builds.lines import Reporter
from proa.errors import InvalidParameter
from proa.ignore import Patterns

ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"
"""The build argument that overrides the directive `check`."""


def check(
    file: Dockerfile,
    name: str,
    text: str,
    *,
    ignore: Sequence[str],
    argument: str,
    reporter: Reporter,
    fatal: bool,
    environment: Environment,
) -> None:
    """Tell every violation; `fatal` is whether `error=true` counts. Raises InvalidParameter."""
    settings = settings_of(file, argument)
    findings = lint(file, Patterns(ignore), settings, environment)
    for finding in findings:
        reporter.found(finding, excerpt(name, text, finding.location))
    if findings and settings.error and fatal:
        rules = ", ".join(sorted({finding.rule for finding in findings}))
        raise InvalidParameter(f"lint violation found for rules: {rules}")

"""`--change` of import and commit: Dockerfile instructions that only touch an image's configuration.

They are read and applied as a build's are. What it takes is imported when there is a change to make: most
commits have none.

Source: docker commit's reference, "--change"; moby daemon/builder/dockerfile/builder.go (BuildFromConfig).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from proa.errors import InvalidParameter
from proa.schema.image import ImageConfig

if TYPE_CHECKING:
    from proa.build.graph import Vertex

_COMMANDS: Final = frozenset(
    (
        "cmd",
        "entrypoint",
        "env",
        "expose",
        "healthcheck",
        "label",
        "onbuild",
        "stopsignal",
        "user",
        "volume",
        "workdir",
    )
)


def apply_changes(config: ImageConfig, changes: Sequence[str]) -> ImageConfig:
    """The config with each instruction applied in order. Raises InvalidParameter in Docker's words."""
    if not any(changes):
        return config
    from proa.build.dockerfile.lines import read_lines
    from proa.build.dockerfile.parsing import parse_node
    from proa.build.stage import Stage
    from proa.schema.oci import Platform

    lines = read_lines("\n".join(changes))
    for node in lines.nodes:
        if node.keyword.lower() not in _COMMANDS:
            raise InvalidParameter(f"{node.keyword.lower()} is not a valid change command")
    stage = Stage(
        name="",
        vertex=0,
        base=None,
        platform=Platform(),
        config=config,
        sources=_Nowhere(),
        arguments={},
        inherited={},
        escape=lines.escape,
        ignore_cache=False,
        total=len(lines.nodes),
        counted=0,
    )
    for node in lines.nodes:
        stage.apply(parse_node(node))
    # A builder's mark, not a change's.
    return replace(stage.config, args_escaped=config.args_escaped)


class _Nowhere:
    """No other stages, and no graph: the directory that WORKDIR makes in a build is not made here."""

    def vertex(self, name: str) -> int | None:
        return None

    def add(self, vertex: "Vertex") -> int:
        return 0

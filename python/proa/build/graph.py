"""What a Dockerfile asks for, as a graph: vertices that make file systems, and images over them.

    Image / Scratch ---> Run / Copy / Directory ---> ... ---> an Outcome
                             ^
              other stages' vertices, the contexts, files of their own

A vertex's operation and the identity of its inputs say everything that decides its result; what is only shown
(title, place) stands beside the operation. The order is such that inputs come before those who need them.
"""

from msgspec import Struct
from msgspec.structs import replace

from proa.build.dockerfile.mounts import MountType
from proa.build.dockerfile.source import Location
from proa.schema.image import ImageConfig
from proa.schema.oci import History, ImageFile, Platform


class Image(Struct, frozen=True, kw_only=True, tag="image"):
    """The file system of an image; `diff_ids` base first."""

    reference: str
    id: str
    diff_ids: tuple[str, ...]


class Scratch(Struct, frozen=True, kw_only=True, tag="scratch"):
    """Nothing."""


class StepMount(Struct, frozen=True, kw_only=True):
    """A mount of a step: of an input (its place in `Vertex.inputs`), of a context, or of neither.

    `source` is a path below it; `id` and `size` are as in dockerfile.mounts; `mode` and the ids are None
    where the kind's default holds.
    """

    type: MountType
    target: str
    input: int | None = None
    context: str | None = None
    source: str = ""
    read_only: bool = False
    id: str = ""
    sharing: str = "shared"
    required: bool = False
    env: str | None = None
    size: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class Run(Struct, frozen=True, kw_only=True, tag="run"):
    """A command in the file system of input 0.

    `environment` is NAME=value; `script` a file to put at /dev/pipes/<name>, executable.
    """

    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    directory: str
    user: str
    mounts: tuple[StepMount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    script: tuple[str, str] | None = None


class FromInput(Struct, frozen=True, kw_only=True, tag="input"):
    """Paths of an input, by its place in `Vertex.inputs`; they may have wildcards."""

    input: int
    paths: tuple[str, ...]


class FromContext(Struct, frozen=True, kw_only=True, tag="context"):
    """Paths of a context, by name (empty: the build's own); they may have wildcards."""

    context: str
    paths: tuple[str, ...]


class Inline(Struct, frozen=True, kw_only=True, tag="inline"):
    """A file of the Dockerfile itself, mode 0644."""

    name: str
    text: str


class FromUrl(Struct, frozen=True, kw_only=True, tag="url"):
    """A file to fetch; `checksum` is a digest or empty; `unpack` whether an archive is unpacked."""

    url: str
    checksum: str = ""
    unpack: bool = False


class FromGit(Struct, frozen=True, kw_only=True, tag="git"):
    """A repository to fetch: `https://host/repo.git#ref:directory` as it was written."""

    remote: str
    checksum: str = ""
    keep_git_dir: bool = False


CopySource = FromInput | FromContext | Inline | FromUrl | FromGit


class Copy(Struct, frozen=True, kw_only=True, tag="copy"):
    """Files into the file system of input 0.

    `target` is absolute; a slash at its end says that it is a directory. `chown` and `chmod` are as they were
    written, empty for 0:0 and the source's mode. `link` makes a layer that does not look at input 0; `unpack`
    unpacks archives from contexts and inputs (ADD); `parents` keeps the directories above a source.
    """

    sources: tuple[CopySource, ...]
    target: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    unpack: bool = False
    exclude: tuple[str, ...] = ()


class Directory(Struct, frozen=True, kw_only=True, tag="directory"):
    """A directory in the file system of input 0, with those above it, where missing; owned by `user`."""

    path: str
    user: str = ""


class ContextRoot(Struct, frozen=True, kw_only=True, tag="context-root"):
    """A whole context as a file system: `FROM name` where name is a context of files."""

    context: str


def stands_alone(operation: "Operation") -> bool:
    """Whether a layer neither reads nor depends on what it is put on: input 0 says only where it goes."""
    return isinstance(operation, Copy) and operation.link


Operation = Image | Scratch | Run | Copy | Directory | ContextRoot


class Vertex(Struct, frozen=True, kw_only=True):
    """One operation; `inputs` are numbers of vertices before it, the file system it changes first."""

    operation: Operation
    inputs: tuple[int, ...] = ()
    title: str = ""
    stage: str = ""
    location: Location | None = None
    ignore_cache: bool = False
    proxy: tuple[str, ...] = ()
    """Variables of a command that have no part in its identity."""


class Step(Struct, frozen=True, kw_only=True):
    """A line of an image's history; `vertex` made its layer, None where there is none."""

    created_by: str
    vertex: int | None = None


class Written(Struct, frozen=True, kw_only=True):
    """An instruction as the Dockerfile has it, and how far the image is after it.

    `vertex` has the file system; `layer` is whether that is its own; `steps` are those of the history so far.
    """

    text: str
    vertex: int
    layer: bool
    steps: int
    config: ImageConfig
    author: str
    triggered: bool = False
    """A base image's ONBUILD has it, not the Dockerfile."""


class Outcome(Struct, frozen=True, kw_only=True):
    """An image: the file system of a vertex, and its configuration.

    Its layers are those of `base` (an Image or none), then one for each step that has a vertex.
    """

    vertex: int
    base: ImageFile | None
    config: ImageConfig
    author: str
    platform: Platform
    steps: tuple[Step, ...]
    written: tuple[Written, ...] = ()
    """Every instruction of its stage, and before them those of the stages that it stands on."""

    def after(self, written: Written) -> "Outcome":
        """The image as it was after one of its instructions."""
        return replace(
            self,
            vertex=written.vertex,
            config=written.config,
            author=written.author,
            steps=self.steps[: written.steps],
            written=(),
        )

    @property
    def base_history(self) -> list[History]:
        """The history that was there before."""
        return list(self.base.history or ()) if self.base else []


class StageText(Struct, frozen=True, kw_only=True):
    """A stage as the Dockerfile has it: its FROM, on which other stage of the graph it stands, and the rest.

    Its own instructions are those of `outcome.written` from the place `first` on; it begins with `vertex`.
    """

    text: str
    below: int | None
    first: int
    vertex: int
    outcome: Outcome


class Graph(Struct, frozen=True, kw_only=True):
    """A planned build: only what the target needs."""

    vertices: tuple[Vertex, ...]
    outcome: Outcome
    arguments: tuple[str, ...] = ()
    """The ARGs before the first FROM, as they were written."""
    stages: tuple[StageText, ...] = ()
    unused_arguments: tuple[str, ...] = ()
    """Build arguments that no ARG asked for."""

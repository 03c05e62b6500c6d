"""From Dockerfiles to graphs: stages, arguments, bases, triggers, and what each instruction does."""

from collections.abc import Mapping

import pytest

from proa.build import graph
from proa.build.dockerfile.parsing import parse_dockerfile
from proa.build.dockerfile.source import DockerfileError, Location
from proa.build.planning import Base, Request, plan
from proa.build.platforms import parse_platform, shown
from proa.errors import InvalidParameter, NotFound
from proa.schema.image import ImageConfig
from proa.schema.oci import ImageFile, Platform, RootFS

AMD64 = Platform(os="linux", architecture="amd64")


class FakeBases:
    """Images by reference."""

    def __init__(self, **images: ImageConfig) -> None:
        self.images = images
        self.asked: list[tuple[str, str]] = []

    async def resolve(self, reference: str, platform: Platform) -> Base:
        self.asked.append((reference, shown(platform)))
        name = reference.rpartition("/")[2].partition(":")[0]
        if name == "missing":
            raise NotFound(f"{reference}: not found")
        config = self.images.get(name, ImageConfig(env=["PATH=/bin"]))
        file = ImageFile(
            architecture=platform.architecture,
            os="linux",
            config=config,
            rootfs=RootFS(diff_ids=["sha256:" + "1" * 64]),
        )
        return Base(reference=reference, id="sha256:" + "2" * 64, file=file)


async def planned(
    text: str,
    bases: FakeBases | None = None,
    *,
    contexts: Mapping[str, str] | None = None,
    target: str = "",
    platform: str = "linux/amd64",
    no_cache_stages: frozenset[str] = frozenset(),
    **arguments: str,
) -> graph.Graph:
    request = Request(
        target=target,
        arguments=arguments,
        contexts=contexts or {},
        platform=parse_platform(platform),
        build_platform=AMD64,
        no_cache_stages=no_cache_stages,
    )
    return await plan(parse_dockerfile(text), request, bases or FakeBases())


def operations(found: graph.Graph, kind: type) -> list:  # type: ignore[type-arg]
    return [vertex.operation for vertex in found.vertices if isinstance(vertex.operation, kind)]


async def test_the_node_example() -> None:
    found = await planned(
        "FROM node:18-alpine\nWORKDIR /app\nCOPY package*.json ./\nRUN npm install\nCOPY . .\n"
        'EXPOSE 3000\nCMD ["node", "server.js"]\n'
    )
    assert [vertex.title for vertex in found.vertices] == [
        "[1/5] FROM docker.io/library/node:18-alpine",
        "[2/5] WORKDIR /app",
        "[3/5] COPY package*.json ./",
        "[4/5] RUN npm install",
        "[5/5] COPY . .",
    ]
    assert [vertex.inputs for vertex in found.vertices] == [(), (0,), (1,), (2,), (3,)]
    (run,) = operations(found, graph.Run)
    assert run.arguments == ("/bin/sh", "-c", "npm install")
    assert (run.directory, run.environment) == ("/app", ("PATH=/bin",))
    first, second = operations(found, graph.Copy)
    assert first.target == "/app/"
    assert first.sources == (graph.FromContext(context="", paths=("package*.json",)),)
    assert second.target == "/app/"
    config = found.outcome.config
    assert (config.cmd, config.exposed_ports, config.working_dir) == (
        ["node", "server.js"],
        {"3000/tcp": {}},
        "/app",
    )
    assert [(step.created_by, step.vertex) for step in found.outcome.steps] == [
        ("WORKDIR /app", 1),
        ("COPY package*.json ./ # buildkit", 2),
        ("RUN /bin/sh -c npm install # buildkit", 3),
        ("COPY . . # buildkit", 4),
        ("EXPOSE [3000/tcp]", None),
        ('CMD ["node" "server.js"]', None),
    ]


async def test_only_what_the_target_needs_is_planned_and_asked_for() -> None:
    bases = FakeBases()
    found = await planned(
        "FROM a AS one\nRUN 1\nFROM missing AS two\nRUN 2\nFROM b\nCOPY --from=one /x /y\n", bases
    )
    assert sorted(bases.asked) == [
        ("docker.io/library/a:latest", "linux/amd64"),
        ("docker.io/library/b:latest", "linux/amd64"),
    ]
    (copy,) = (vertex for vertex in found.vertices if isinstance(vertex.operation, graph.Copy))
    run = next(
        number for number, vertex in enumerate(found.vertices) if isinstance(vertex.operation, graph.Run)
    )
    assert copy.inputs[1] == run
    assert copy.operation.sources == (graph.FromInput(input=1, paths=("/x",)),)


async def test_a_target_by_name_or_number() -> None:
    text = "FROM a AS one\nRUN 1\nFROM one AS two\nRUN 2\nFROM two\nRUN 3"
    for target, runs in (("one", 1), ("TWO", 2), ("1", 2), ("", 3)):
        assert len(operations(await planned(text, target=target), graph.Run)) == runs
    with pytest.raises(InvalidParameter, match='target stage "three" could not be found'):
        await planned(text, target="three")


async def test_a_stage_on_a_stage_goes_on_where_that_ended() -> None:
    found = await planned("FROM a AS one\nARG v=1\nENV e=$v\nUSER me\nRUN 1\nFROM one\nRUN 2")
    first, second = operations(found, graph.Run)
    assert (first.user, second.user) == ("me", "me")
    assert "e=1" in second.environment
    assert [step.created_by for step in found.outcome.steps][-1] == "RUN |1 v=1 /bin/sh -c 2 # buildkit"


async def test_arguments_scopes_and_precedence() -> None:
    found = await planned(
        "ARG tag=1\nARG base=img:$tag\nFROM $base\nARG tag\nARG given=x\nARG none\n"
        "ENV all=$tag-$given-${none:-none}\nENV given=env after=$given\nRUN x",
        given="user",
        never="1",
    )
    assert found.vertices[0].operation.reference == "docker.io/library/img:1"
    (run,) = operations(found, graph.Run)
    assert set(run.environment) == {
        "PATH=/bin", "tag=1", "given=env", "all=1-user-none", "after=user",
    }  # fmt: skip
    assert found.outcome.config.env == ["PATH=/bin", "all=1-user-none", "given=env", "after=user"]
    assert found.unused_arguments == ("never",)


async def test_platform_arguments() -> None:
    bases = FakeBases()
    found = await planned(
        "FROM --platform=$BUILDPLATFORM a\nARG TARGETPLATFORM\nARG TARGETARCH\nRUN x",
        bases,
        platform="linux/arm/v7",
    )
    assert bases.asked == [("docker.io/library/a:latest", "linux/amd64")]
    (run,) = operations(found, graph.Run)
    assert {"TARGETPLATFORM=linux/arm/v7", "TARGETARCH=arm"} <= set(run.environment)


async def test_proxies_leave_no_trace() -> None:
    found = await planned("FROM a\nRUN x", http_proxy="http://p")
    vertex = found.vertices[1]
    assert isinstance(vertex.operation, graph.Run)
    assert vertex.proxy == ("http_proxy=http://p",)
    assert vertex.operation.environment == ("PATH=/bin",)
    assert found.outcome.steps[0].created_by == "RUN /bin/sh -c x # buildkit"
    assert found.unused_arguments == ()


async def test_triggers_of_the_base_run_first_and_are_spent() -> None:
    bases = FakeBases(base=ImageConfig(env=["PATH=/bin"], on_build=["COPY . /src", "ENV t=1"]))
    found = await planned("FROM base\nONBUILD RUN later\nRUN echo $t", bases)
    assert [vertex.title for vertex in found.vertices] == [
        "[1/4] FROM docker.io/library/base:latest",
        "[2/4] ONBUILD COPY . /src",
        "[3/4] RUN echo 1",
    ]
    assert found.outcome.config.on_build == ["RUN later"]
    assert found.vertices[2].operation.arguments == ("/bin/sh", "-c", "echo $t")


async def test_triggers_of_a_stage_reach_the_stage_on_it() -> None:
    found = await planned("FROM a AS one\nONBUILD RUN t\nFROM one\nRUN own")
    assert [run.arguments[-1] for run in operations(found, graph.Run)] == ["t", "own"]


async def test_a_trigger_may_take_files_from_an_image() -> None:
    bases = FakeBases(base=ImageConfig(on_build=["COPY --from=other /x /y"]))
    found = await planned("FROM base", bases)
    assert ("docker.io/library/other:latest", "linux/amd64") in bases.asked
    assert isinstance(found.vertices[found.vertices[-1].inputs[1]].operation, graph.Image)


async def test_named_contexts_stand_in_for_images_and_stages() -> None:
    contexts = {"a": "docker-image://b:2", "files": "/some/where", "one": "/else"}
    bases = FakeBases()
    found = await planned(
        "FROM missing AS one\nFROM a\nCOPY --from=files x /x\nCOPY --from=one y /y", bases, contexts=contexts
    )
    assert bases.asked == [("docker.io/library/b:2", "linux/amd64")]
    first, second = operations(found, graph.Copy)
    assert first.sources == (graph.FromContext(context="files", paths=("x",)),)
    assert second.sources == (graph.FromContext(context="one", paths=("y",)),)


async def test_a_context_of_files_may_be_a_base() -> None:
    found = await planned("FROM files\nRUN x", contexts={"files": "/some/where"})
    assert found.vertices[0].operation == graph.ContextRoot(context="files")


DIGEST = f"sha256:{'ab' * 32}"


async def test_copy_in_all_its_forms() -> None:
    found = await planned(
        "FROM a\nWORKDIR /w\nENV d=dir u=1:2\n"
        "COPY --chown=$u --chmod=u+x --link --exclude=*.o $d/x y sub/\nCOPY --link x /\n"
        "COPY <<one <<'two' /t\n$d \"q\"\none\n$d\ntwo\n"
        f"ADD --checksum={DIGEST} https://h/x.tgz z\nADD https://h/r.git#v1 /r\nADD a.tgz .\n"
    )
    plain, linked, files, url, git, archive = operations(found, graph.Copy)
    assert plain == graph.Copy(
        sources=(graph.FromContext(context="", paths=("dir/x", "y")),),
        target="/w/sub/",
        chown="1:2",
        chmod="u+x",
        link=False,  # a mode needs what is there
        exclude=("*.o",),
    )
    assert linked.link
    assert files.sources == (
        graph.Inline(name="one", text='dir "q"\n'),
        graph.Inline(name="two", text="$d\n"),
    )
    assert url.sources == (graph.FromUrl(url="https://h/x.tgz", checksum=DIGEST),)
    assert git.sources == (graph.FromGit(remote="https://h/r.git#v1"),)
    assert archive.unpack
    assert [step.created_by for step in found.outcome.steps if step.vertex][1] == (
        "COPY --chown=1:2 --chmod=u+x dir/x y sub/ # buildkit"
    )


async def test_commands_with_heredocs() -> None:
    found = await planned(
        "FROM a\nRUN <<EOF\nset -e\nx\nEOF\nRUN <<-E\n\t#!/usr/bin/python\n\tpass\nE\n"
        "RUN cat <<A >/f\nhi\nA\n"
    )
    script, program, shell = operations(found, graph.Run)
    assert script.arguments == ("/bin/sh", "-c", "set -e\nx\n")
    assert program.arguments == ("/bin/sh", "-c", "/dev/pipes/E")
    assert program.script == ("E", "#!/usr/bin/python\npass\n")
    assert shell.arguments == ("/bin/sh", "-c", "cat <<A >/f\nhi\nA")
    assert found.vertices[1].title == "[2/4] RUN <<EOF (set -e...)"


async def test_mounts_of_a_command() -> None:
    found = await planned(
        "FROM a AS one\nRUN 1\nFROM b\nWORKDIR /w\n"
        "RUN --mount=from=one,source=/x,target=y --mount=type=cache,target=/c "
        "--mount=type=secret,id=s --mount=type=bind,target=/ctx --mount=type=tmpfs,target=/t x"
    )
    run = operations(found, graph.Run)[-1]
    stage, cache, secret, context, tmpfs = run.mounts
    assert (stage.input, stage.source, stage.target, stage.read_only) == (1, "/x", "/w/y", True)
    assert (cache.id, cache.sharing, cache.input, cache.context) == ("/c", "shared", None, None)
    assert (secret.id, secret.target) == ("s", "/run/secrets/s")
    assert (context.context, context.input) == ("", None)
    assert tmpfs.read_only is False


async def test_configuration() -> None:
    found = await planned(
        'FROM scratch\nSHELL ["bash", "-c"]\nCMD x\nENTRYPOINT ["e"]\nENTRYPOINT []\n'
        "LABEL a=1 'b'=\"2 3\"\nVOLUME /a /b\nUSER 1\nSTOPSIGNAL SIGTERM\nEXPOSE 80-81/udp\n"
        "HEALTHCHECK --interval=90s CMD x\nMAINTAINER me"
    )
    outcome = found.outcome
    assert outcome.config == ImageConfig(
        env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        shell=["bash", "-c"],
        cmd=["bash", "-c", "x"],
        args_escaped=True,
        labels={"a": "1", "b": "2 3"},
        volumes={"/a": {}, "/b": {}},
        user="1",
        stop_signal="SIGTERM",
        working_dir="/",
        exposed_ports={"80/udp": {}, "81/udp": {}},
        healthcheck=outcome.config.healthcheck,
    )
    assert outcome.author == "me"
    assert outcome.steps[-2].created_by == (
        """HEALTHCHECK &{["CMD-SHELL" "x"] "1m30s" "0s" "0s" "0s" '\\x00'}"""
    )


async def test_a_working_directory_stands_as_it_was_written() -> None:
    found = await planned("FROM a\nWORKDIR /w//x/\nRUN 1\nWORKDIR ${none}\nCOPY f .\nWORKDIR y/../z/\n")
    assert [operation.path for operation in operations(found, graph.Directory)] == ["/w/x", "/w/x", "/w/x/z"]
    assert operations(found, graph.Run)[0].directory == "/w/x"
    assert operations(found, graph.Copy)[0].target == "/w/x/"
    assert found.outcome.config.working_dir == "/w/x/z"
    shown = [step.created_by for step in found.outcome.steps if step.created_by.startswith("WORKDIR")]
    assert shown == ["WORKDIR /w//x/", "WORKDIR /w//x/", "WORKDIR /w/x/z"]


async def test_a_mount_without_a_target_is_on_the_working_directory() -> None:
    found = await planned(
        "FROM a AS other\nFROM b\nWORKDIR /w\nRUN --mount=from=other --mount=type=cache,target=sub/ 1"
    )
    (run,) = operations(found, graph.Run)
    assert [(mount.target, mount.id) for mount in run.mounts] == [("/w", ""), ("/w/sub", "sub")]
    with pytest.raises(DockerfileError, match='invalid mount target "/"'):
        await planned("FROM a\nRUN --mount=type=tmpfs 1")


async def test_a_source_is_no_variable() -> None:
    with pytest.raises(DockerfileError, match="variable expansion is not supported for --from"):
        await planned("ARG V=a\nFROM b\nARG V\nCOPY --from=$V /x /x")


async def test_arguments_for_the_builder_are_not_seen_by_commands() -> None:
    found = await planned("FROM a\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN 1")
    (run,) = operations(found, graph.Run)
    assert run.environment == ("PATH=/bin",)
    assert found.outcome.steps[0].created_by == "ARG BUILDKIT_SBOM_SCAN_STAGE=true"


@pytest.mark.parametrize(
    ("retries", "shown"), [(3, r"'\x03'"), (10, r"'\n'"), (39, r"'\''"), (65, "'A'"), (2000000, "'\ufffd'")]
)
async def test_retries_are_a_character_in_the_history(retries: int, shown: str) -> None:
    found = await planned(f"FROM a\nHEALTHCHECK --retries={retries} CMD x")
    assert found.outcome.steps[-1].created_by == (
        f'HEALTHCHECK &{{["CMD-SHELL" "x"] "0s" "0s" "0s" "0s" {shown}}}'
    )


async def test_an_entrypoint_forgets_the_command_of_the_base_but_not_our_own() -> None:
    bases = FakeBases(a=ImageConfig(cmd=["base"]))
    assert (await planned('FROM a\nENTRYPOINT ["e"]', bases)).outcome.config.cmd is None
    assert (await planned('FROM a\nCMD ["c"]\nENTRYPOINT ["e"]', bases)).outcome.config.cmd == ["c"]


async def test_cache_may_be_ignored_for_some_stages() -> None:
    found = await planned("FROM a AS one\nRUN 1\nFROM one AS two\nRUN 2", no_cache_stages=frozenset({"two"}))
    assert [vertex.ignore_cache for vertex in found.vertices if vertex.inputs] == [False, True]


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("FROM $nothing", 1, "base name ($nothing) should not be blank"),
        ("FROM A", 1, "invalid reference format: repository name (A) must be lowercase"),
        ("FROM --platform=$no a", 1, "empty platform value from expression $no"),
        ("FROM a AS b\nCOPY --from=b / /", 2, "circular dependency detected on stage: b"),
        ("FROM a\nCOPY --from=later / /\nFROM b AS later\nFROM 0", 2, "cannot copy from stage"),
        ("FROM a\nEXPOSE 99999", 2, "invalid containerPort: 99999"),
        ("FROM a\nSTOPSIGNAL SIGNONE", 2, "invalid signal: SIGNONE"),
        ("FROM a\nCOPY --chmod=888 a b", 2, "invalid chmod parameter: '888'"),
        ("FROM a\nCOPY https://x/y /z", 2, "source can't be a URL for COPY"),
        ("FROM a\nADD --checksum=sha256:1 x /z", 2, "checksum requires HTTP(S) or Git sources"),
        ("FROM a\nADD --checksum=sha256:1 https://h/x /z", 2, "invalid checksum digest length"),
        ("FROM a\nADD --checksum=ab https://h/x /z", 2, "invalid checksum digest format"),
        ("FROM a\nADD --checksum=md5:ab https://h/x /z", 2, "unsupported digest algorithm"),
        ("FROM a\nADD https://h/x.git?none=1 /z", 2, 'unexpected query "none"'),
        ("FROM a\nENV x=${", 2, 'failed to process "${"'),
    ],
)
async def test_errors_have_their_place(text: str, line: int, complaint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        await planned(text, target="0")
    assert complaint in str(caught.value)
    assert caught.value.location == Location(line, line)

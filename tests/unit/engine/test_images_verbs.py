"""resolve, list, inspect, history, tag, remove and prune, in Docker's words."""

from pathlib import Path

import pytest
from image_archives import chunks, config, digest, docker_archive, tar
from images_rig import Rig

from proa.engine.images.committing import Committed
from proa.engine.images.lineage import places
from proa.errors import Conflict, InvalidParameter, NotFound
from proa.schema.image import ImageConfig
from proa.schema.reference import parse_reference

BASE = tar({"base": b"12345"})
TOP = tar({"top": b"123"})
CONTAINER = "c" * 64


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    """one:1, one:2 and two:latest on one base layer."""
    rig = Rig(tmp_path)
    await rig.load(chunks(docker_archive([BASE, TOP], ["one:1", "one:2"], created="2024-01-02T00:00:00Z")))
    await rig.load(chunks(docker_archive([BASE], ["example.com/two"], created="2024-01-01T00:00:00Z")))
    rig.events.told.clear()
    return rig


TWO = digest(config([BASE], created="2024-01-01T00:00:00Z"))


async def remove(rig: Rig, ref: str, *, force: bool = False) -> list[str]:
    items = await rig.images.remove(ref, force=force, prune=True)
    return [item.untagged or item.deleted for item in items]


# ---- resolve ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ref", ["example.com/two", "example.com/two:latest", TWO, TWO[7:], TWO[7:19], TWO[:20]]
)
async def test_an_image_is_found_by_name_and_id(rig: Rig, ref: str) -> None:
    assert rig.images.resolve(ref).id == TWO


@pytest.mark.parametrize(
    ("ref", "text"),
    [
        ("missing", "No such image: missing:latest"),
        ("one", "No such image: one:latest"),
        ("docker.io/library/missing:3", "No such image: missing:3"),
        ("sha256:" + "0" * 64, "No such image: sha256:" + "0" * 64),
        ("0" * 64, "No such image: sha256:" + "0" * 64),
        ("0" * 12, "No such image: 000000000000:latest"),
    ],
)
async def test_what_is_not_there_is_named(rig: Rig, ref: str, text: str) -> None:
    with pytest.raises(NotFound, match=f"^{text}$"):
        rig.images.resolve(ref)


async def test_a_bad_reference_is_a_bad_request(rig: Rig) -> None:
    with pytest.raises(InvalidParameter, match="must be lowercase"):
        rig.images.resolve("UPPER")


# ---- reads --------------------------------------------------------------------------------------


async def test_the_list_is_newest_first(rig: Rig) -> None:
    one, two = await rig.images.list(all=False, filters={}, digests=False, shared_size=True)
    assert one.repo_tags == ["one:1", "one:2"]
    assert two.repo_tags == ["example.com/two:latest"]
    assert (one.size, one.shared_size, one.containers) == (8, 5, 0)
    assert two.created == 1704067200
    assert two.labels == {"tier": "test"}


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"dangling": ["true"]}, []),
        ({"dangling": ["false"]}, ["example.com/two:latest", "one:1", "one:2"]),
        ({"label": ["tier"]}, ["example.com/two:latest", "one:1", "one:2"]),
        ({"label": ["tier=test"], "before": ["one:1"]}, ["example.com/two:latest"]),
        ({"label": ["tier=other"]}, []),
        ({"label!": ["tier"]}, []),
        ({"since": ["example.com/two"]}, ["one:1", "one:2"]),
        ({"reference": ["one"]}, ["one:1", "one:2"]),
        ({"reference": ["o*:2", "*/two"]}, ["example.com/two:latest", "one:2"]),
        ({"reference": ["two"]}, []),
        ({"reference": ["*" * 40 + "x", "*e*e*e*" * 9]}, []),
        ({"reference": ["o*e*?2", "*?n*:[^1]"]}, ["one:2"]),
        ({"until": ["2024-01-01T12:00:00Z"]}, ["example.com/two:latest"]),
        ({"until": ["1704110400"]}, ["example.com/two:latest"]),
        ({"until": ["1h"]}, ["example.com/two:latest", "one:1", "one:2"]),
    ],
)
async def test_filters(rig: Rig, filters: dict[str, list[str]], names: list[str]) -> None:
    assert await rig.names(**filters) == names


@pytest.mark.parametrize(
    ("filters", "error", "text"),
    [
        ({"color": ["red"]}, InvalidParameter, "invalid filter 'color'"),
        ({"dangling": ["maybe"]}, InvalidParameter, r"invalid filter 'dangling=\[maybe\]'"),
        ({"before": ["missing"]}, NotFound, "No such image: missing:latest"),
        ({"until": ["later"]}, InvalidParameter, "invalid duration"),
        ({"reference": ["[a"]}, InvalidParameter, "syntax error in pattern"),
    ],
)
async def test_bad_filters(
    rig: Rig, filters: dict[str, list[str]], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await rig.names(**filters)


async def test_inspect(rig: Rig) -> None:
    found = await rig.images.inspect("one:1")
    assert found.repo_tags == ["one:1", "one:2"]
    assert found.created == "2024-01-02T00:00:00Z"
    assert (found.os, found.architecture, found.size) == ("linux", "amd64", 8)
    assert found.root_fs == {"Type": "layers", "Layers": [digest(BASE), digest(TOP)]}
    assert found.config is not None
    assert found.config.cmd == ["/bin/true"]
    assert found.metadata is not None
    assert str(found.metadata["LastTagTime"]).endswith("Z")


async def test_history_is_last_step_first(rig: Rig) -> None:
    top, base = await rig.images.history("one:1")
    assert (top.id, top.tags, top.size, top.created_by) == (
        rig.images.resolve("one:1").id,
        ["one:1", "one:2"],
        3,
        "layer 1",
    )
    assert (base.id, base.tags, base.size) == ("<missing>", None, 5)


async def test_a_history_names_the_images_that_are_known(rig: Rig) -> None:
    """A parent stands where its own steps begin, however many the image added."""
    base = await commit(rig, "one:1", "made")
    top = await commit(rig, "made", "")
    steps = await rig.images.history(top)
    assert [step.id for step in steps] == [top, base, rig.images.resolve("one:1").id, "<missing>"]
    assert [step.tags for step in steps] == [None, ["made:latest"], ["one:1", "one:2"], None]
    assert (await rig.images.inspect(top)).parent == base
    again = await rig.again()
    assert [step.id for step in await again.images.history(top)] == [step.id for step in steps]
    listed = await again.images.list(all=False, filters={}, digests=False, shared_size=False)
    assert {image.id: image.parent_id for image in listed}[top] == base
    assert again.images.made_from(again.images.resolve("one:1").id) == {base, top}


@pytest.mark.parametrize(
    ("steps", "ancestors", "found"),
    [(5, [4, 2], [1, 3]), (5, [5], []), (5, [3, 3], [2]), (3, [0], []), (0, [1], []), (4, [2, 3], [2])],
)
def test_where_ancestors_stand(steps: int, ancestors: list[int], found: list[int]) -> None:
    assert places(steps, ancestors) == found


async def commit(rig: Rig, ref: str, name: str) -> str:
    """An image of one more file on top of another."""
    upper = rig.root / f"upper{name}"
    upper.mkdir()
    (upper / f"new{name}").write_text(name)
    wish = Committed(
        container_id=CONTAINER,
        parent=rig.images.resolve(ref).id,
        upper=str(upper),
        config=ImageConfig(),
        command=(),
        author="",
        comment="",
        version="1",
    )
    async with rig.images.packing.intake() as intake:
        packed = await rig.images.packing.pack(intake, str(upper))
        return await rig.images.packing.image(
            intake, packed, wish, parse_reference(name).with_default_tag() if name else None
        )


# ---- tag ----------------------------------------------------------------------------------------


async def test_a_tag_is_one_more_name(rig: Rig) -> None:
    await rig.images.tag(TWO[7:19], "three", "")
    await rig.images.tag("three", "r:5000/four", "v1")
    assert rig.images.resolve("r:5000/four:v1").id == TWO
    assert rig.events.told == [("tag", "three:latest"), ("tag", "r:5000/four:v1")]


@pytest.mark.parametrize(("repo", "tag"), [("UPPER", ""), ("a", "b/c"), (f"a@sha256:{'0' * 64}", "")])
async def test_a_bad_name_is_refused(rig: Rig, repo: str, tag: str) -> None:
    with pytest.raises(InvalidParameter):
        await rig.images.tag("one:1", repo, tag)


# ---- remove -------------------------------------------------------------------------------------


async def test_a_name_goes_before_the_image(rig: Rig) -> None:
    image = rig.images.resolve("one:1")
    assert await remove(rig, "one:1") == ["one:1"]
    assert await remove(rig, "one:2") == ["one:2", image.id, image.content[1].chain_id]
    assert await remove(rig, "example.com/two") == ["example.com/two:latest", TWO, digest(BASE)]
    assert rig.files() == set()
    assert [action for action, _ in rig.events.told] == ["untag", "untag", "delete", "untag", "delete"]


async def test_by_id_all_names_must_be_in_one_repository(rig: Rig) -> None:
    await rig.images.tag("example.com/two", "other", "")
    with pytest.raises(
        Conflict, match=r"unable to delete \w{12} \(must be forced\) - image is referenced in mult"
    ):
        await remove(rig, TWO[7:19])
    assert (await remove(rig, TWO[7:19], force=True))[:3] == ["other:latest", "example.com/two:latest", TWO]


async def test_what_others_were_made_from_stays_without_a_name(rig: Rig) -> None:
    """Untagged it is hidden; it goes with the last that needs it, unless it is told to stay."""
    made = await commit(rig, "example.com/two", "made")
    with pytest.raises(
        Conflict, match=r"unable to delete \w{12} \(cannot be forced\) - image has dependent child images"
    ):
        await remove(rig, TWO, force=True)
    assert await remove(rig, "example.com/two") == ["example.com/two:latest"]
    assert await rig.names() == ["made:latest", "one:1", "one:2"]
    assert await rig.names(dangling=["true"]) == []
    everything = await rig.images.list(all=True, filters={}, digests=False, shared_size=False)
    assert TWO in {image.id for image in everything}
    assert (await rig.images.prune({})).images_deleted is None
    untagged, first, _, second = await remove(rig, "made")  # its own layer, and not the one they share
    assert (untagged, first, second) == ("made:latest", made, TWO)


async def test_a_parent_stays_where_it_is_asked_to_or_used(rig: Rig) -> None:
    made = await commit(rig, "example.com/two", "made")
    other = await commit(rig, "example.com/two", "other")
    await remove(rig, "example.com/two")
    assert (await remove(rig, "made"))[:2] == ["made:latest", made]
    items = await rig.images.remove("other", force=False, prune=False)
    assert other in [item.deleted for item in items]
    assert TWO not in [item.deleted for item in items]
    assert await rig.names(dangling=["true"]) == ["<none>"]


async def test_prune_takes_a_line_of_images_whole(rig: Rig) -> None:
    middle = await commit(rig, "example.com/two", "middle")
    top = await commit(rig, "middle", "")
    await remove(rig, "middle")
    report = await rig.images.prune({})
    deleted = [item.deleted for item in report.images_deleted or ()]
    assert [id_ for id_ in deleted if id_ in (top, middle)] == [top, middle]
    assert TWO not in deleted


async def test_a_container_keeps_its_image(rig: Rig) -> None:
    rig.containers.users = [(CONTAINER, False)]
    short = TWO[7:19]
    with pytest.raises(
        Conflict,
        match=r'unable to remove repository reference "example.com/two" \(must force\) - container '
        f"cccccccccccc is using its referenced image {short}",
    ):
        await remove(rig, "example.com/two")
    with pytest.raises(
        Conflict, match=r"\(must be forced\) - image is being used by stopped container c{12}"
    ):
        await remove(rig, short)
    rig.containers.users = [(CONTAINER, True)]
    with pytest.raises(
        Conflict, match=r"\(cannot be forced\) - image is being used by running container c{12}"
    ):
        await remove(rig, short, force=True)
    assert await remove(rig, "example.com/two", force=True) == ["example.com/two:latest"]
    assert rig.images.resolve(TWO).id == TWO


async def test_layers_stay_while_a_container_stands_on_them(rig: Rig) -> None:
    await remove(rig, "one:1")
    image = rig.images.resolve("one:2")
    rig.images.hold(image.id, CONTAINER)
    rig.containers.users = [(CONTAINER, False)]
    assert await remove(rig, "one:2", force=True) == ["one:2", image.id]
    assert all(Path(layer).is_dir() for layer in image.layers)
    again = await rig.again()
    assert all(Path(layer).is_dir() for layer in image.layers)
    again.images.release(CONTAINER)
    again.images.release("unknown")
    assert await remove(again, "example.com/two") == ["example.com/two:latest", TWO, digest(BASE)]
    assert again.files() == set()


async def test_an_image_that_is_gone_cannot_be_held(rig: Rig) -> None:
    with pytest.raises(NotFound):
        rig.images.hold("sha256:" + "0" * 64, CONTAINER)


async def test_prune_takes_what_has_no_name(rig: Rig) -> None:
    await rig.load(chunks(docker_archive([tar({"x": b"123456"})])))
    report = await rig.images.prune({})
    assert report.space_reclaimed == 6
    assert len(report.images_deleted or ()) == 2
    assert len(await rig.names()) == 3
    assert (await rig.images.prune({"dangling": ["true"]})).images_deleted is None


async def test_prune_of_all_leaves_what_containers_use(rig: Rig) -> None:
    rig.containers.users = [(CONTAINER, False)]
    assert (await rig.images.prune({"dangling": ["false"]})).images_deleted is None
    rig.containers.users = []
    assert (await rig.images.prune({"dangling": ["false"], "label": ["none"]})).images_deleted is None
    assert (await rig.images.prune({"dangling": ["false"]})).space_reclaimed == 8
    assert rig.files() == set()
    with pytest.raises(InvalidParameter, match="invalid filter 'reference'"):
        await rig.images.prune({"reference": ["a"]})


# ---- platforms ----------------------------------------------------------------------------------


async def test_what_is_another_platforms_is_not_found(rig: Rig) -> None:
    words = (
        r"was found but its platform \(linux/amd64\) does not match the specified platform \(linux/arm64\)"
    )
    with pytest.raises(NotFound, match=words):
        await rig.images.inspect("one:1", platform="linux/arm64")
    with pytest.raises(NotFound, match=words):
        await rig.images.history("one:1", platform="linux/arm64")
    with pytest.raises(NotFound, match=words):
        await rig.images.remove("one:1", force=True, prune=True, platform="linux/arm64")
    with pytest.raises(NotFound, match=r"^no suitable export target found for platform linux/arm64$"):
        await rig.images.save(["one:1"], platform="linux/arm64")
    assert (await rig.images.inspect("one:1", platform="linux/amd64")).architecture == "amd64"


async def test_names_that_are_refused(rig: Rig) -> None:
    with pytest.raises(InvalidParameter, match="ambiguous tag using digest algorithm as name"):
        await rig.images.tag("one:1", "sha256", "1")
    with pytest.raises(InvalidParameter, match=r"^image name cannot be blank$"):
        await rig.images.remove(" ", force=True, prune=True)

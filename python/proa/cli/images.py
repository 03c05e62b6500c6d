"""`images`, `rmi`, `tag`, `history`, `pull`, `push`.

Source: the Docker Engine API, v1.51; the observed output of docker 28.
"""

import os

from proa.cli import human
from proa.cli.failure import Failure
from proa.cli.flags import Command, Parsed
from proa.cli.lists import FORMAT_HELP, configured, filters
from proa.cli.pull import as_json
from proa.cli.reference import check, familiar_repository, full_repository, split
from proa.cli.table import Format, render, show
from proa.cli.transport import client, query, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CREATED = "{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}"
_TABLE = f"table {{{{.Repository}}}}\t{{{{.Tag}}}}\t{{{{.ID}}}}\t{_CREATED}\t{{{{.Size}}}}"
_DIGEST_TABLE = (
    f"table {{{{.Repository}}}}\t{{{{.Tag}}}}\t{{{{.Digest}}}}\t{{{{.ID}}}}\t{_CREATED}\t{{{{.Size}}}}"
)
_RAW = (
    "repository: {{.Repository}}\ntag: {{.Tag}}\n"
    "image_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n"
)
_DIGEST_RAW = _RAW.replace("image_id", "digest: {{.Digest}}\nimage_id")
_HISTORY_TABLE = "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
_HISTORY_RAW_TABLE = "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"

HEADERS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
}

_HISTORY_HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}

_PLATFORM = 'Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")'

_EXPERIMENTAL = (
    b"WARNING: This is an experimental feature. The output may change and shouldn't be depended on.\n"
)

# Images older than this were given no date.
_EPOCH = 946684800

_LIST_FLAGS = (
    ("all", "a", "bool", "", "Show all images (default hides intermediate images)"),
    ("digests", "", "bool", "", "Show digests"),
    ("filter", "f", "filter", "", "Filter output based on conditions provided"),
    ("format", "", "string", "", FORMAT_HELP),
    ("no-trunc", "", "bool", "", "Don't truncate output"),
    ("quiet", "q", "bool", "", "Only show image IDs"),
    ("tree", "", "bool", "", "!List multi-platform images as a tree (EXPERIMENTAL)"),
)

_REMOVE_FLAGS = (
    ("force", "f", "bool", "", "Force removal of the image"),
    ("no-prune", "", "bool", "", "Do not delete untagged parents"),
    ("platform", "", "strings", "", f"Remove only the given platform variant. {_PLATFORM}"),
)

_HISTORY_FLAGS = (
    ("format", "", "string", "", FORMAT_HELP),
    ("human", "H", "bool", "true", "Print sizes and dates in human readable format"),
    ("no-trunc", "", "bool", "", "Don't truncate output"),
    ("platform", "", "string", "", f"Show history for the given platform. {_PLATFORM}"),
    ("quiet", "q", "bool", "", "Only show image IDs"),
)

_PULL_FLAGS = (
    ("all-tags", "a", "bool", "", "Download all tagged images in the repository"),
    ("disable-content-trust", "", "bool", "true", "Skip image verification"),
    ("platform", "", "string", "", "Set platform if server is multi-platform capable"),
    ("quiet", "q", "bool", "", "Suppress verbose output"),
)

_PUSH_FLAGS = (
    ("all-tags", "a", "bool", "", "Push all tags of an image to the repository"),
    ("disable-content-trust", "", "bool", "true", "Skip image signing"),
    (
        "platform",
        "",
        "string",
        "",
        "Push a platform-specific manifest as a single-platform image to the registry. Image index won't be "
        "pushed, meaning that other manifests, including attestations won't be preserved. "
        "'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)",
    ),
    ("quiet", "q", "bool", "", "Suppress verbose output"),
)


def images(parsed: Parsed) -> int:
    """`proa images`."""
    if parsed.flag("tree"):
        return _tree(parsed)
    quiet, digests = parsed.flag("quiet"), parsed.flag("digests")
    source = parsed.get("format")
    if not source and not quiet:
        source = configured(parsed.options, "imagesFormat")
    if quiet and source in ("", "table"):
        form = Format("{{.ID}}", "")
    else:
        raw = "image_id: {{.ID}}" if quiet else _DIGEST_RAW if digests else _RAW
        form = Format(source, _DIGEST_TABLE if digests else _TABLE, raw)
    if form.table and digests and "{{.Digest}}" not in form.source:
        form.source += "\t{{.Digest}}"
    more = {"reference": {parsed.args[0]: True}} if parsed.args else {}
    wanted = query(all=parsed.flag("all") or None, filters=filters(parsed, **more))
    found = client(parsed.options).call("GET", f"/images/json{wanted}") or []
    with_digest = digests or "{{.Digest}}" in form.source
    rows = [row for image in found for row in rows_of(image, with_digest, digests)]
    shown = fields(not parsed.flag("no-trunc"))
    show(render(rows, form, shown, HEADERS, kind="*formatter.imageContext"))
    return 0


def _tree(parsed: Parsed) -> int:
    from proa.cli.image_tree import draw

    for name, why in (("quiet", "--quiet"), ("no-trunc", "--no-trunc"), ("digests", "--show-digest")):
        if parsed.flag(name):
            raise Failure(f"{why} is not yet supported with --tree")
    if parsed.get("format"):
        raise Failure("--format is not yet supported with --tree")
    more = {"reference": {parsed.args[0]: True}} if parsed.args else {}
    wanted = query(all=parsed.flag("all") or None, filters=filters(parsed, **more), manifests=True)
    os.write(2, _EXPERIMENTAL)
    draw(client(parsed.options).call("GET", f"/images/json{wanted}") or [])
    return 0


def rows_of(image: "dict[str, Any]", with_digest: bool, digests: bool) -> "list[dict[str, Any]]":
    """A row for every name that the image has."""
    tags: dict[str, list[str]] = {}
    known: dict[str, list[str]] = {}
    for reference in image.get("RepoTags") or ():
        repository, tag, _ = split(reference)
        if tag and reference != "<none>:<none>":
            tags.setdefault(familiar_repository(repository), []).append(tag)
    for reference in image.get("RepoDigests") or ():
        repository, _, digest = split(reference)
        if digest and reference != "<none>@<none>":
            known.setdefault(familiar_repository(repository), []).append(digest)

    def row(repository: str, tag: str, digest: str) -> "dict[str, Any]":
        return {**image, "repository": repository, "tag": tag, "digest": digest}

    if not tags and not known:
        return [row("<none>", "<none>", "<none>")]
    rows = []
    for repository, names in tags.items():
        found = known.pop(repository, []) if with_digest else known.pop(repository, []) and []
        rows += [row(repository, tag, digest) for tag in names for digest in found or ["<none>"]]
    for repository, found in known.items():
        rows += [row(repository, "<none>", digest) for digest in (found if digests else [""])]
    return rows


def fields(short: bool) -> "dict[str, Callable[[Any], Any]]":
    """What a row of the list has."""

    def number(value: int, text: str) -> str:
        return "N/A" if value == -1 else text

    return {
        "ID": lambda row: human.short_id(row["Id"]) if short else row["Id"],
        "Repository": lambda row: row["repository"],
        "Tag": lambda row: row["tag"],
        "Digest": lambda row: row["digest"],
        "CreatedSince": lambda row: human.ago(row["Created"]),
        "CreatedAt": lambda row: human.timestamp(row["Created"]),
        "Size": lambda row: human.decimal_size(row.get("Size") or 0, 3),
        "VirtualSize": lambda row: human.decimal_size(row.get("VirtualSize") or row.get("Size") or 0),
        "Containers": lambda row: number(row.get("Containers", -1), str(row.get("Containers"))),
        "SharedSize": lambda row: number(
            row.get("SharedSize", -1), human.decimal_size(max(row.get("SharedSize", 0), 0))
        ),
        "UniqueSize": lambda row: number(
            row.get("SharedSize", -1),
            human.decimal_size(max((row.get("Size") or 0) - row.get("SharedSize", 0), 0)),
        ),
    }


def remove(parsed: Parsed) -> int:
    """`proa rmi`."""
    api = client(parsed.options)
    wanted = query(force=parsed.flag("force") or None, noprune=parsed.flag("no-prune") or None)
    platforms = [f"platforms={quote(as_json(text))}" for text in parsed.get("platform", ())]
    if platforms:
        wanted += ("&" if wanted else "?") + "&".join(platforms)
    errors = []
    for name in parsed.args:
        try:
            deleted = api.call("DELETE", f"/images/{quote(name)}{wanted}") or []
        except Failure as exc:
            if not (parsed.flag("force") and getattr(exc, "status", 0) == 404):
                errors.append(str(exc))
            continue
        for item in deleted:
            show(
                f"Deleted: {item['Deleted']}\n" if item.get("Deleted") else f"Untagged: {item['Untagged']}\n"
            )
    if errors:
        raise Failure("\n".join(errors))
    return 0


def tag(parsed: Parsed) -> int:
    """`proa tag`."""
    source, target = parsed.args
    try:
        check(target)
    except Failure as exc:
        raise Failure(f'Error parsing reference: "{target}" is not a valid repository/tag: {exc}') from None
    repository, name, digest = split(target)
    if digest:
        raise Failure("refusing to create a tag with a digest reference")
    client(parsed.options).call(
        "POST", f"/images/{quote(source)}/tag{query(repo=full_repository(repository), tag=name or 'latest')}"
    )
    return 0


def history(parsed: Parsed) -> int:
    """`proa history`."""
    readable = parsed.get("human", True)
    short = not parsed.flag("no-trunc")
    source = parsed.get("format")
    if parsed.flag("quiet") and source in ("", "table"):
        form = Format("{{.ID}}", "")
    else:
        form = Format(source, _HISTORY_TABLE if readable else _HISTORY_RAW_TABLE)

    def since(row: "dict[str, Any]") -> str:
        if not readable:
            return human.rfc3339(row["Created"])
        return human.ago(row["Created"]) if row["Created"] > _EPOCH else "N/A"

    def created_by(row: "dict[str, Any]") -> str:
        text = row.get("CreatedBy", "").replace("\t", " ")
        return human.ellipsis(text, 45) if short else text

    columns: dict[str, Callable[[Any], Any]] = {
        "ID": lambda row: human.short_id(row["Id"]) if short else row["Id"],
        "CreatedSince": since,
        "CreatedAt": lambda row: human.rfc3339(row["Created"]),
        "CreatedBy": created_by,
        "Size": lambda row: (
            human.decimal_size(row.get("Size", 0), 3) if readable else str(row.get("Size", 0))
        ),
        "Comment": lambda row: row.get("Comment", ""),
    }
    path = f"/images/{quote(parsed.args[0])}/history{query(platform=as_json(parsed.get('platform')))}"
    found = client(parsed.options).call("GET", path) or []
    show(render(found, form, columns, _HISTORY_HEADERS, kind="*formatter.historyContext"))
    return 0


def pull(parsed: Parsed) -> int:
    """`proa pull`."""
    from proa.cli.pull import pull_image, refuse_trust

    name = parsed.args[0]
    check(name)
    refuse_trust(parsed)
    repository, wanted, digest = split(name)
    every = parsed.flag("all-tags")
    if every and (wanted or digest):
        raise Failure("tag can't be used with --all-tags/-a")
    quiet = parsed.flag("quiet")
    if not (every or wanted or digest) and not quiet:
        show("Using default tag: latest\n")
    platform = parsed.get("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    api = client(parsed.options)
    pull_image(api, name, parsed.options, platform=platform, quiet=quiet, all_tags=every)
    end = f"@{digest}" if digest else "" if every else f":{wanted or 'latest'}"
    show(f"{full_repository(repository)}{end}\n")
    return 0


def push(parsed: Parsed) -> int:
    """`proa push`."""
    from proa.cli.pull import push_image, refuse_trust

    name = parsed.args[0]
    check(name)
    refuse_trust(parsed)
    repository, wanted, digest = split(name)
    every = parsed.flag("all-tags")
    if every and (wanted or digest):
        raise Failure("tag can't be used with --all-tags/-a")
    if digest:
        raise Failure("cannot push a digest reference")
    quiet = parsed.flag("quiet")
    if not (every or wanted) and not quiet:
        show("Using default tag: latest\n")
    platform = parsed.get("platform") or ""
    push_image(client(parsed.options), name, parsed.options, platform=platform, quiet=quiet, all_tags=every)
    if quiet:
        show(f"{full_repository(repository)}{'' if every else ':' + (wanted or 'latest')}\n")
    return 0


COMMANDS = {
    "images": Command(
        "images",
        "[OPTIONS] [REPOSITORY[:TAG]]",
        "List images",
        images,
        _LIST_FLAGS,
        maximum=1,
        aliases="image ls, image list, images",
    ),
    "rmi": Command(
        "rmi",
        "[OPTIONS] IMAGE [IMAGE...]",
        "Remove one or more images",
        remove,
        _REMOVE_FLAGS,
        minimum=1,
        aliases="image rm, image remove, rmi",
    ),
    "tag": Command(
        "tag",
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        tag,
        minimum=2,
        maximum=2,
        aliases="image tag, tag",
    ),
    "history": Command(
        "history",
        "[OPTIONS] IMAGE",
        "Show the history of an image",
        history,
        _HISTORY_FLAGS,
        minimum=1,
        maximum=1,
        aliases="image history, history",
    ),
    "pull": Command(
        "pull",
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        "Download an image from a registry",
        pull,
        _PULL_FLAGS,
        minimum=1,
        maximum=1,
        aliases="image pull, pull",
    ),
    "push": Command(
        "push",
        "[OPTIONS] NAME[:TAG]",
        "Upload an image to a registry",
        push,
        _PUSH_FLAGS,
        minimum=1,
        maximum=1,
        aliases="image push, push",
    ),
}

"""How long do builds take: many small commands, nothing to do, many files?

    python benches/bench_build.py [--rounds N] [--files N] [--rows WORD...] [--json FILE] [--no-peers]

Peers are dockerd's classic builder, BuildKit's buildkitd and buildah, where they are installed.
Both daemons of Docker's API are driven by the same docker CLI, which sends the context; proa's own client, on
the same host, does not: that is the row `proa build`. With buildx, where that is, the CLI speaks BuildKit's
protocol to proad. BuildKit and buildah make an image in their own store, as proa does. Ratios are of medians
taken in turn in one run. Run it as root with `proa` installed.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import builders
import peers
from builders import Builder

COMMANDS = 20
STEPS = 30
CONTEXT_FILES = 20_000


def many_files(directory: Path, count: int) -> None:
    """`count` small files, a hundred a directory."""
    for number in range(count):
        parent = directory / f"d{number // 100}"
        if not number % 100:
            parent.mkdir(parents=True)
        (parent / f"f{number}").write_text(f"{number}\n" * 20)


def contexts(root: Path, files: int) -> dict[str, Path]:
    """The contexts of the rows, by name."""
    commands = root / "commands"
    commands.mkdir(parents=True)
    (commands / "Dockerfile").write_text("FROM busybox\n" + "RUN true\n" * COMMANDS)
    steps = root / "steps"
    many_files(steps / "files", CONTEXT_FILES)
    lines = ["FROM busybox", "COPY files /files", *(f"RUN echo {n} > /n{n}" for n in range(STEPS - 2))]
    (steps / "Dockerfile").write_text("\n".join(lines) + "\n")
    copy = root / "copy"
    many_files(copy / "files", files)
    (copy / "Dockerfile").write_text("FROM busybox\nCOPY files /files\n")
    return {"commands": commands, "steps": steps, "copy": copy}


def measure(
    clients: list[Builder], found: dict[str, Path], rounds: int, rows: list[str]
) -> dict[str, dict[str, float]]:
    """Seconds by row and client, medians of rounds in which the clients take turns."""
    every: dict[str, tuple[str, bool, int]] = {
        f"{COMMANDS} x RUN true": ("commands", True, rounds),
        f"nothing to do, {STEPS} steps": ("steps", False, rounds),
        "COPY of many files": ("copy", True, max(1, rounds // 2)),
    }
    table: dict[str, dict[str, float]] = {}
    for row, (context, cold, count) in every.items():
        if rows and context not in rows:
            continue
        for client in clients:
            # Once unmeasured: what has to be there already, is; and a first command is no sample of any.
            client.build(found[context if not cold else "commands"])
        samples: dict[str, list[float]] = {client.name: [] for client in clients}
        for _ in range(count):
            for client in clients:
                samples[client.name].append(client.build(found[context], cold=cold))
        table[row] = {name: statistics.median(values) for name, values in samples.items()}
    return table


def show(table: dict[str, dict[str, float]]) -> None:
    """The rows; a peer's ratio is how much longer it takes than `proa build`."""
    for row, found in table.items():
        ours = found["proa build"]
        cells = [
            f"{name} {seconds * 1e3:.0f} ms" + (f" ({seconds / ours:.1f} x)" if name != "proa build" else "")
            for name, seconds in found.items()
        ]
        print(f"{row}: {', '.join(cells)}")
    print("targets: 10 x the classic builder and 5 x BuildKit; 150 ms and 5 x both; 3 x the classic builder")


def peers_here(stack: contextlib.ExitStack, root: Path, archive: bytes) -> Iterator[Builder]:
    """Every peer that can run here; says which cannot."""
    base = root / "busybox.tar"
    base.write_bytes(archive)
    for name in ("classic", "buildkit", "buildah"):
        if why := builders.missing(name):
            print(f"left out: {name} ({why})")
        elif name == "classic":
            docker = stack.enter_context(peers.dockerd(root / "dockerd"))
            peers.load(docker, archive)
            yield builders.DockerBuild("classic", docker, root)
        elif name == "buildkit":
            yield stack.enter_context(builders.buildkitd(root / "buildkit", base))
        else:
            yield stack.enter_context(builders.buildah(root / "buildah", base))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=60_000)
    parser.add_argument("--rows", nargs="*", default=[], choices=["commands", "steps", "copy"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proa-bench-")))
        archive = peers.busybox_archive(peers.busybox_tree(root / "tree"))
        proa = stack.enter_context(peers.proad(root / "proa"))
        peers.load(proa, archive)
        clients = [builders.ProaBuild(proa), builders.DockerBuild("docker at proad", proa, root)]
        if not builders.missing("buildx"):
            clients.append(builders.BuildxBuild("buildx at proad", proa, root))
        if not options.no_peers:
            clients += peers_here(stack, root, archive)
        table = measure(clients, contexts(root / "contexts", options.files), options.rounds, options.rows)
    show(table)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("bench_build.py: needs root")
    main()

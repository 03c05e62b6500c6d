"""Build contexts by chance, from a seed: a tree of files, what is ignored of it, and a Dockerfile over both.

Every Dockerfile can be built: files go to /f<n> and directories to /d<n>, so that none is in another's way.
What only BuildKit knows is made where `modern`.
"""

import io
import os
import random
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

_FILES = ("a.txt", "b.txt", "c.sh", "Ünïcode", "with space", ".hidden", "x1", "x2", "keep.log", "other.log")
_DIRECTORIES = ("", "src", "src/deep", "src/deep/er", "lib", "lib/tmp", "docs", "empty")
_FILE_MODES = (0o644, 0o600, 0o755, 0o777, 0o444, 0o4755, 0o2711)
_DIRECTORY_MODES = (0o755, 0o700, 0o777, 0o1777, 0o2755)
_IGNORED = (
    "*.log",
    "!keep.log",
    "**/tmp",
    "docs/*",
    "!docs/a.txt",
    "# src",
    "/lib/x1",
    "src/**/x2",
    "empty/",
)
_OWNERS = ("", "", "1000", "7:8", "root", "root:0", "0:33")
_MODES = ("", "", "0600", "755", "4711")
_SYMBOLIC = ("u=rwX,go=rX", "a-x", "g+w,o-r", "+x")


class Generated:
    """One context: `write` puts it into an empty directory."""

    def __init__(self, seed: int, *, modern: bool) -> None:
        self._random = random.Random(seed)
        self._modern = modern
        self._lines: list[str] = []
        self._number = 0
        self._stages: list[str] = []
        self._workdir_is_set = False

    def write(self, directory: Path) -> str:
        """The context; returns the Dockerfile's text."""
        self._tree(directory)
        patterns = self._random.sample(_IGNORED, self._random.randrange(len(_IGNORED)))
        (directory / ".dockerignore").write_text("\n".join(["Dockerfile", ".dockerignore", *patterns]) + "\n")
        text = self._dockerfile()
        (directory / "Dockerfile").write_text(text)
        return text

    # ---- the tree --------------------------------------------------------------------------------------

    def _tree(self, directory: Path) -> None:
        chance = self._random
        for name in _DIRECTORIES:
            (directory / name).mkdir(exist_ok=True)
        for name in _DIRECTORIES[:-1]:
            for file in chance.sample(_FILES, 5) if name else _FILES:
                path = directory / name / file
                path.write_text(f"{file} {chance.random()}\n" * chance.randrange(4))
                # The classic builder's --chown takes the last of these bits away.
                path.chmod(chance.choice(_FILE_MODES if self._modern else _FILE_MODES[:-2]))
                if chance.random() < 0.3:
                    os.chown(path, 1234, 2345)
        (directory / "to-file").symlink_to("src/deep/../../a.txt")
        (directory / "to-directory").symlink_to("src")
        (directory / "src/up").symlink_to("../lib")
        (directory / "dangling").symlink_to("nowhere/at/all")
        (directory / "absolute").symlink_to("/a.txt")
        os.link(directory / "a.txt", directory / "lib/linked")
        os.link(directory / "lib/linked", directory / "lib/linked-too")
        for name in ("plain.tar", "zipped.tar.gz", "packed.tar.xz", "squeezed.tar.bz2"):
            kind = {".tar": "w", ".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}[Path(name).suffix]
            (directory / name).write_bytes(self._archive(kind))
        for name in _DIRECTORIES[1:]:
            (directory / name).chmod(chance.choice(_DIRECTORY_MODES))

    def _archive(self, kind: str) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=kind, format=tarfile.PAX_FORMAT) as archive:
            self._member(archive, "top", tarfile.DIRTYPE)
            for number in range(3):
                self._member(archive, f"top/file{number}", tarfile.REGTYPE, b"in an archive\n" * number)
            # Without these BuildKit gives them to root, whoever --chown says.
            self._member(archive, "deep", tarfile.DIRTYPE)
            self._member(archive, "deep/er", tarfile.DIRTYPE)
            self._member(archive, "deep/er/file", tarfile.REGTYPE, b"x")
            self._member(archive, "top/link", tarfile.SYMTYPE, target="file0")
            self._member(archive, "top/absolute", tarfile.SYMTYPE, target="/etc/passwd")
            self._member(archive, "top/fifo", tarfile.FIFOTYPE)
            hard = archive.getmember("top/file1")
            hard.name, hard.type, hard.linkname, hard.size = "top/hard", tarfile.LNKTYPE, "top/file1", 0
            archive.addfile(hard)
        return buffer.getvalue()

    def _member(
        self, archive: tarfile.TarFile, name: str, kind: bytes, data: bytes = b"", target: str = ""
    ) -> None:
        chance = self._random
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, len(data)
        info.uid, info.gid = chance.choice((0, 5, 70000)), chance.choice((0, 6))
        info.mode = chance.choice(_DIRECTORY_MODES if kind == tarfile.DIRTYPE else _FILE_MODES)
        info.mtime = 1_000_000_000
        if kind == tarfile.REGTYPE and chance.random() < 0.3:
            info.pax_headers = {"SCHILY.xattr.user.colour": "blue"}
        archive.addfile(info, io.BytesIO(data))

    # ---- the Dockerfile --------------------------------------------------------------------------------

    def _dockerfile(self) -> str:
        chance = self._random
        self._lines = ["ARG BASE=busybox", "ARG SHARED=global"]
        count = chance.choice((1, 1, 2, 3))
        for number in range(count):
            base = chance.choice(["busybox", "${BASE}", *self._stages])
            name = f"stage{number}"
            self._lines += [f"FROM {base} AS {name}", "RUN busybox mkdir -p /made/up && echo > /made/up/x"]
            self._workdir_is_set = False
            for _ in range(chance.randrange(4, 12)):
                self._lines += self._instruction(last=number == count - 1)
            self._stages.append(name)
        return "\n".join(self._lines) + "\n"

    def _instruction(self, *, last: bool) -> list[str]:
        kinds: list[tuple[Callable[[], list[str]], int]] = [
            (self._copy, 8),
            (self._add, 4),
            (self._run, 6),
            (self._variable, 4),
            (self._setting, 5),
            (self._workdir, 2),
        ]
        if self._stages:
            kinds.append((self._copy_from, 5))
        if not last:
            kinds.append((self._trigger, 1))
        if self._modern:
            kinds += [(self._inline, 2), (self._mount, 2), (self._user, 2), (self._reshaped, 5)]
            kinds += [(self._through_links, 3), (self._of_image, 2), (self._volume, 1), (self._shell, 1)]
        chosen: Callable[[], list[str]] = self._random.choices(
            [kind for kind, _ in kinds], [weight for _, weight in kinds]
        )[0]
        return chosen()

    def _path(self, letter: str) -> str:
        self._number += 1
        above = self._random.choice(("/", "/", "/deep/er/", "", "rel/"))
        return f"{above}{letter}{self._number}"

    def _options(self, *, chmod: bool = True) -> str:
        chance = self._random
        options = []
        if owner := chance.choice(_OWNERS):
            options.append(f"--chown={owner}")
        if self._modern and chmod and (mode := chance.choice((*_MODES, *_SYMBOLIC))):
            options.append(f"--chmod={mode}")
        if self._modern and chance.random() < 0.2:
            options.append("--link")
        return "".join(f"{option} " for option in options)

    def _placed(self, keyword: str, sources: Sequence[str], target: str, options: str) -> list[str]:
        words = [*sources, target]
        if any(" " in word for word in words) or self._random.random() < 0.2:
            quoted = ", ".join(f'"{word}"' for word in words)
            return [f"{keyword} {options}[{quoted}]"]
        return [f"{keyword} {options}{' '.join(words)}"]

    def _copy(self) -> list[str]:
        chance = self._random
        options = self._options()
        many = [["a.txt", "b.txt"], ["*.txt"], ["x?", "c.*"], ["src", "a.txt"], ["[ab].txt", "with space"]]
        one = [
            ["."],
            ["src"],
            ["src/"],
            ["lib"],
            ["to-directory"],
            ["src/deep/.."],
            ["./lib/."],
            ["/src/deep"],
        ]
        single = [["a.txt"], ["to-file"], ["Ünïcode"], [".hidden"], ["lib/linked"], ["absolute"]]
        if self._modern:
            many += [["none-*"], ["src/*/"]]
            if chance.random() < 0.15:
                pick = chance.choice((["src/deep"], ["./src/./deep/er", "a.txt"], ["lib/x*"]))
                return self._placed("COPY", pick, self._path("d") + "/", f"--parents {options}")
        kind = chance.randrange(3)
        if kind == 0:
            return self._placed("COPY", chance.choice(many), self._path("d") + "/", options)
        if kind == 1:
            source = chance.choice(one)
            # Of files that are named themselves BuildKit excludes none, whatever its reference says; and
            # where it excludes, a link that leads nowhere is an error.
            if self._modern and source != ["."] and chance.random() < 0.3:
                options += f"--exclude={chance.choice(('*.txt', '**/x*', 'deep', 'src/deep'))} "
            return self._placed("COPY", source, self._path("d") + chance.choice(("", "/")), options)
        return self._placed("COPY", chance.choice(single), self._path("f"), options)

    def _add(self) -> list[str]:
        archives = ("plain.tar", "zipped.tar.gz", "packed.tar.xz", "squeezed.tar.bz2")
        source = self._random.choice((*archives, *archives, "a.txt", "src", "*.tar"))
        # What happens to the modes of what was in an archive differs, and so do its owners before BuildKit.
        options = self._options(chmod=False) if self._modern else ""
        return self._placed("ADD", [source], self._path("d") + "/", options)

    def _copy_from(self) -> list[str]:
        chance = self._random
        number = chance.randrange(len(self._stages))
        name = chance.choice((self._stages[number], str(number)))
        source = chance.choice(("/etc", "/etc/passwd", "/bin/busybox", "/bin", "/etc/*", "/made/"))
        target = self._path("d") + "/"
        return self._placed("COPY", [source], target, f"--from={name} {self._options()}")

    def _run(self) -> list[str]:
        chance = self._random
        self._number += 1
        path = f"/run{self._number}"
        commands = (
            f"busybox mkdir -p {path}/a/b && echo {self._number} > {path}/a/b/c",
            f"busybox mkdir {path} && echo x > {path}/x && busybox ln {path}/x {path}/y",
            f"busybox ln -s ../etc/passwd {path}",
            f"busybox env | busybox grep -vE '^(HOSTNAME|OTEL_|TRACEPARENT)' | busybox sort > {path}",
            f"pwd > {path}; id >> {path}; umask >> {path}",
            f"busybox mknod {path} c 1 3 && busybox chmod 606 {path}",
            f"echo x > {path} && busybox chown 12:34 {path} && busybox chmod 4750 {path}",
            f"busybox mkfifo {path}",
            f"busybox rm -rf /d{max(1, self._number - 2)} /f{max(1, self._number - 1)} /root",
            f"busybox mkdir -p {path} && busybox rm -rf /deep; busybox mkdir -p /deep/z",
            "busybox chmod 751 /root; busybox touch /root/t",
            f'echo "$A ${{B:-none}} $SHARED" > {path}',
            f"echo one > {path}; \\\n    # a comment\n    echo two >> {path}",
        )
        command = f"{{ {chance.choice(commands)}; }} || true"
        if chance.random() < 0.25 and "\n" not in command:
            escaped = command.replace("\\", "\\\\").replace('"', '\\"')
            return [f'RUN ["/bin/sh", "-c", "{escaped}"]']
        return [f"RUN {command}"]

    def _inline(self) -> list[str]:
        target = self._path("f")
        options = self._options()
        return self._random.choice(
            (
                [f"COPY {options}<<EOF {target}", "content of $A", "EOF"],
                [f'COPY {options}<<"ONE" <<-TWO {target}/', "raw $A", "ONE", "\ttabs $B", "\tTWO"],
                [
                    "RUN <<EOF",
                    f"echo from a document > /run{self._number}",
                    "busybox ls / > /dev/null",
                    "EOF",
                ],
            )
        )

    def _mount(self) -> list[str]:
        self._number += 1
        path = f"/run{self._number}"
        stages = [f"--mount=from={name},source=/etc,target=/other" for name in self._stages]
        mount, command = self._random.choice(
            [
                ("--mount=target=/context", f"busybox cp -r /context/src {path}"),
                ("--mount=type=tmpfs,target=/scratch/here", f"echo x > /scratch/here/x; echo y > {path}"),
                ("--mount=type=bind,source=lib,target=lib,rw", f"echo x > lib/new; busybox ls lib > {path}"),
                *((each, f"busybox cp /other/passwd {path}") for each in stages),
            ]
        )
        return [f"RUN {mount} {command}"]

    def _user(self) -> list[str]:
        """Commands and files of somebody by name, who is in the image."""
        self._number += 1
        path, name = f"/run{self._number}", f"u{self._number}"
        made = [f"RUN echo {name}:x:{self._number + 500}:77::/home/{name}:/bin/sh >> /etc/passwd"]
        made += [f"RUN echo g{self._number}:x:{self._number + 900}:{name} >> /etc/group"]
        made += [f"RUN busybox mkdir -m 777 {path}"]
        owner = self._random.choice((name, f"{name}:g{self._number}", f":g{self._number}"))
        user = self._random.choice((name, f"{name}:g{self._number}", f"{name}:5", str(self._number + 500)))
        return [
            *made,
            f"USER {user}",
            f'RUN {{ id; echo "$HOME"; echo x; }} > {path}/made; busybox mkdir {path}/d',
            f"WORKDIR {path}/work",
            f"COPY --chown={owner} a.txt o",
            "COPY b.txt plain",
            "USER root",
            "WORKDIR /",
        ]

    def _reshaped(self) -> list[str]:
        """What was one thing becomes another in a later layer."""
        self._number += 1
        path = f"/run{self._number}"
        before = self._random.choice(
            (
                f"busybox mkdir -p {path}/a/b {path}/c && echo x > {path}/a/b/f && echo y > {path}/c/g",
                f"echo file > {path}",
                f"busybox ln -s /etc {path}",
                f"busybox mkdir {path} && echo 1 > {path}/one && busybox ln {path}/one {path}/two",
                f"busybox mkdir -m 2751 {path} && busybox chown 5:6 {path} && echo s > {path}/s && "
                f"busybox chmod 6711 {path}/s",
                f"busybox mkdir {path} && echo q > '{path}/a b' && "
                f"echo r > \"$(printf '{path}/\\377\\376')\"",
            )
        )
        after = self._random.choice(
            (
                f"busybox rm -rf {path} && busybox mkdir {path} && echo z > {path}/z",
                f"busybox rm -rf {path} && echo now a file > {path}",
                f"busybox rm -rf {path} && busybox ln -s a.txt {path}",
                f"busybox rm -rf {path}",
                f"busybox rm -rf {path}/* && busybox mkdir -p {path}/a && echo z > {path}/a/z",
                f"busybox mv {path} {path}-moved && busybox mkdir -p {path}/a/b",
                f"busybox chmod 700 {path}; busybox chown 9:9 {path}; busybox touch {path}/a {path}/one",
                f"echo more >> {path}/two; busybox ln {path}/one {path}/three",
                f"busybox cp -a {path} {path}-copy; busybox rm -rf {path}; busybox cp -a {path}-copy {path}",
            )
        )
        lines = [f"RUN {before}", f"RUN {{ {after}; }} 2> /dev/null || true"]
        if self._random.random() < 0.4:
            lines.append(f"COPY {self._options()}src {path}-after/")
        if self._random.random() < 0.3:
            lines.append(f"RUN {{ {after}; }} 2> /dev/null || true")
        return lines

    def _through_links(self) -> list[str]:
        """Into directories that symbolic links of the image lead to."""
        self._number += 1
        path = f"/run{self._number}"
        target = self._random.choice(
            (f"{path}/link/", f"{path}/link/new/", f"{path}/far/", f"{path}/loop", f"{path}/link/in")
        )
        chown = self._random.choice(("", "", "--chown=7:8 "))
        source = self._random.choice(("a.txt", "src", "lib", "src/deep"))
        if source == "a.txt" and target.endswith("loop"):
            target = f"{path}/link/"
        if target.endswith("loop"):
            target = f"{path}/far/x/"
        return [
            f"RUN busybox mkdir -p {path}/real/deep && busybox ln -s real {path}/link && "
            f"busybox ln -s /nowhere{self._number}/../run{self._number}/real/deep {path}/far || true",
            f"COPY {chown}{source} {target.replace('far', 'link/deep')}",
            f"WORKDIR {path}/link/work",
            "RUN pwd > here",
            "WORKDIR /",
        ]

    def _of_image(self) -> list[str]:
        source = self._random.choice(("/bin/busybox", "/etc", "/etc/passwd", "/bin/sh"))
        return [f"COPY --from=busybox {self._options()}{source} {self._path('d')}/"]

    def _volume(self) -> list[str]:
        self._number += 1
        path = f"/run{self._number}"
        return [
            f"RUN busybox mkdir {path} && echo before > {path}/before",
            f"VOLUME {path}",
            f"RUN echo after > {path}/after; busybox rm {path}/before",
            f"COPY a.txt {path}/",
        ]

    def _shell(self) -> list[str]:
        self._number += 1
        return [
            'SHELL ["/bin/busybox", "sh", "-e", "-c"]',
            f"RUN echo $0 $- > /run{self._number}",
            "CMD still a shell",
            'SHELL ["/bin/sh", "-c"]',
            "HEALTHCHECK --start-period=2s --start-interval=1s CMD echo health $A",
        ]

    def _variable(self) -> list[str]:
        chance = self._random
        lines = [
            "ENV A=one B='two three' C=\"$A-${B}\"",
            "ENV A ${A:-fallback} and more",
            "ENV D=${A:+set}${missing} E=a\\ b",
            "ENV A=\\$literal F='$single'",
            "ARG SHARED",
            "ARG LOCAL=${A:-local}",
            "ARG UNSET",
            "ENV SHARED=$SHARED$LOCAL",
        ]
        if self._modern:
            lines += ["ENV G=${A#o} H=${A%%e*} I=${A/o/0}", "ARG X=1 Y=$A"]
        return [chance.choice(lines)]

    def _setting(self) -> list[str]:
        return [
            self._random.choice(
                (
                    f"LABEL a=b \"c d\"='e f' n{self._random.randrange(3)}=$A",
                    "LABEL old form of label",
                    "EXPOSE 80 443/tcp 53/udp",
                    "EXPOSE 8000-8002",
                    *self._volumes(),
                    'CMD ["echo", "exec"]',
                    "CMD echo shell $A",
                    'ENTRYPOINT ["/bin/echo"]',
                    "ENTRYPOINT echo shell",
                    "USER 0",
                    "USER root:0",
                    "STOPSIGNAL SIGINT",
                    "STOPSIGNAL 9",
                    "HEALTHCHECK --interval=5s --retries=3 CMD true",
                    'HEALTHCHECK --timeout=1m30s CMD ["true", "x"]',
                    "HEALTHCHECK NONE",
                    'SHELL ["/bin/busybox", "sh", "-c"]',
                    "MAINTAINER somebody <some@body>",
                )
            )
        ]

    def _volumes(self) -> list[str]:
        if self._modern:
            return [f"VOLUME /vol{self._random.randrange(3)}", 'VOLUME ["/v/a", "/v/b"]']
        # The classic builder makes their directories, and forgets what is written into them.
        return ["VOLUME /tmp", 'VOLUME ["/tmp", "/sys"]']

    def _workdir(self) -> list[str]:
        paths = ["/w", "/w//y/", "/new/$SHARED"] + ["sub", "./deeper", ".."] * self._workdir_is_set
        self._workdir_is_set = True
        return [f"WORKDIR {self._random.choice(paths)}"]

    def _trigger(self) -> list[str]:
        self._number += 1
        return [
            self._random.choice(
                (
                    f"ONBUILD COPY a.txt /f{self._number}",
                    f"ONBUILD RUN echo triggered > /run{self._number}",
                    "ONBUILD ENV TRIGGERED=yes",
                    f"ONBUILD ADD plain.tar /d{self._number}/",
                )
            )
        ]

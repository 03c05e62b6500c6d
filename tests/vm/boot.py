"""Run a command in a small virtual machine whose only cgroup hierarchy is v2.

    python tests/vm/boot.py [--memory MIB] [--timeout SECONDS] COMMAND...

The machine is Debian's cloud kernel under qemu's software emulation: where tests run in a container or in a
virtual machine, KVM is missing, or there and broken. It sees this host's root file system through virtiofs,
read-only, below a tmpfs overlay: what is installed here (the virtual environment under test, pytest, busybox)
is there as well, and nothing it writes comes back. /run is a tmpfs, and $TMPDIR lies in it, so that overlays
can have their upper directories there. The command runs in the current directory, as root; its exit code is
this program's. 124: it took too long; 125: there is no machine, and stderr says why.

/dev/vda is a block device of nothing but zeros, for what limits input and output.

Needs Debian's qemu-system-x86 (virtiofsd comes with it), busybox-static, cpio and kmod; the kernel package
is downloaded, never installed, and cached in $PROA_VM_CACHE (default /var/cache/proa-vm).
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(os.environ.get("PROA_VM_CACHE", "/var/cache/proa-vm"))
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
QEMU = "qemu-system-x86_64"
PACKAGES = {
    VIRTIOFSD: "qemu-system-common",
    QEMU: "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "setpriv": "util-linux",
}
EARLY_MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "fs/fuse/fuse",
    "fs/fuse/virtiofs",
    "fs/overlayfs/overlay",
)
PASSED_ON = ("PYTHONPATH", "VIRTUAL_ENV", "CI")
TIMED_OUT = 124
NO_MACHINE = 125

# ttyS0 is for people; the exit code goes to ttyS1, where no output can be taken for it.
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host /over /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in {early}; do /bin/busybox insmod /m/$module.ko; done
/bin/busybox mount -t virtiofs -o ro host /host || echo no virtiofs
/bin/busybox mount -t tmpfs -o size=75% over /over
/bin/busybox mkdir /over/upper /over/work
/bin/busybox mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work overlay /new
/bin/busybox mount -t proc proc /new/proc
/bin/busybox mount -t sysfs sys /new/sys
/bin/busybox mount -t devtmpfs dev /new/dev
/bin/busybox mkdir -p /new/dev/pts /new/dev/shm
/bin/busybox mount -t devpts -o ptmxmode=666 pts /new/dev/pts
/bin/busybox mount -t tmpfs shm /new/dev/shm
/bin/busybox mount -t tmpfs run /new/run
/bin/busybox mkdir /new/run/tmp
/bin/busybox mount -t cgroup2 -o nsdelegate cgroup2 /new/sys/fs/cgroup
/bin/busybox ip link set lo up
/bin/busybox cp /command /new/run/command
exec /bin/busybox switch_root /new /bin/sh /run/command
"""

COMMAND = """#!/bin/sh
mkdir -p /lib/modules
mount --bind {modules}/lib/modules /lib/modules
modprobe -a virtio_blk loop
export PATH={path} HOME=/root TERM=dumb TMPDIR=/run/tmp {environment}
cd {cwd}
{command}
echo $? >/dev/ttyS1
echo o >/proc/sysrq-trigger
while :; do :; done
"""


class NoMachine(Exception):
    """What is missing for a virtual machine."""


def require_programs() -> None:
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        raise NoMachine(f"missing: {' '.join(missing)} (apt-get install them)")


def call(*command: str | Path, cwd: Path | None = None, stdin: bytes | None = None) -> bytes:
    """Run a program and answer its output; NoMachine with its last words where it fails."""
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()
        raise NoMachine(f"{shlex.join(map(str, command))}: {words or done.returncode}")
    return done.stdout


def kernel() -> tuple[Path, Path]:
    """(vmlinuz, directory that holds lib/modules), unpacked in the cache."""
    tree = CACHE / "tree"
    if not any(tree.glob("boot/vmlinuz-*")):
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="new-") as new:
            try:
                unpack_kernel(Path(new))
            except NoMachine:
                call("apt-get", "update", "-q")  # its lists are older than what the source has now
                unpack_kernel(Path(new))
            # Whoever is first wins; the others have unpacked the same.
            with contextlib.suppress(OSError):
                (Path(new) / "tree").rename(tree)
    return next(tree.glob("boot/vmlinuz-*")), tree


def unpack_kernel(directory: Path) -> None:
    """Download the kernel package and unpack it to `directory`/tree."""
    depends = call("apt-cache", "depends", "linux-image-cloud-amd64").decode()
    package = next((word for word in depends.split() if word.startswith("linux-image-6")), None)
    if package is None:
        raise NoMachine("apt-cache knows no linux-image-cloud-amd64 (apt-get update)")
    # _apt, which apt downloads as, has no access to a private directory: fine, root downloads then.
    call("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package, cwd=directory)
    call("dpkg", "-x", next(directory.glob("linux-image-*.deb")), directory / "tree")
    image = next((directory / "tree").glob("boot/vmlinuz-*"))
    call("depmod", "-b", directory / "tree", image.name.removeprefix("vmlinuz-"))


def initramfs(work: Path, version: str, modules: Path, command: str) -> Path:
    """A busybox initramfs that mounts the host's root, brings the command and hands over to it."""
    tree = work / "initramfs"
    (tree / "bin").mkdir(parents=True)
    (tree / "m").mkdir()
    shutil.copy2(shutil.which("busybox") or "", tree / "bin/busybox")
    for name in EARLY_MODULES:
        source = modules / "lib/modules" / version / "kernel" / f"{name}.ko"
        shutil.copy2(source, tree / "m" / source.name)
    early = " ".join(name.rpartition("/")[2] for name in EARLY_MODULES)
    (tree / "init").write_text(INIT.format(early=early))
    (tree / "init").chmod(0o755)
    (tree / "command").write_text(command)
    image = work / "initramfs.cpio"
    names = call("find", ".", cwd=tree)
    image.write_bytes(call("cpio", "-o", "-H", "newc", "--quiet", cwd=tree, stdin=names))
    return image


def script(modules: Path, command: list[str]) -> str:
    environment = " ".join(f"{key}={shlex.quote(os.environ[key])}" for key in PASSED_ON if key in os.environ)
    return COMMAND.format(
        modules=shlex.quote(str(modules)),
        path=shlex.quote(os.environ["PATH"]),
        environment=environment,
        cwd=shlex.quote(os.getcwd()),
        command=shlex.join(command),
    )


@contextlib.contextmanager
def running(command: list[str], **options: object) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ends with the block, and with us if we are killed."""
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def shared_root(work: Path) -> Iterator[Path]:
    """The socket of a virtiofsd that serves this host's root."""
    path = work / "virtiofs.sock"
    with (work / "virtiofsd.log").open("wb") as log:
        arguments = [f"--socket-path={path}", "-o", "source=/,cache=always,sandbox=chroot,xattr"]
        with running([VIRTIOFSD, *arguments], stdout=subprocess.DEVNULL, stderr=log) as daemon:
            for _ in range(1000):
                if path.exists():
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(0.01)
                    break
            if not path.exists():
                raise NoMachine(f"virtiofsd: {(work / 'virtiofsd.log').read_text(errors='replace').strip()}")
            yield path


def machine(image: Path, ramdisk: Path, socket: Path, exit_file: Path, memory: int) -> list[str]:
    """The command line of qemu."""
    words = [QEMU, "-no-reboot", "-nodefaults", "-display", "none", "-cpu", "max", "-smp", "2"]
    words += ["-m", str(memory), "-serial", "stdio", "-serial", f"file:{exit_file}"]
    words += ["-object", f"memory-backend-memfd,id=mem,size={memory}M,share=on", "-numa", "node,memdev=mem"]
    words += ["-chardev", f"socket,id=fs,path={socket}", "-device", "vhost-user-fs-pci,chardev=fs,tag=host"]
    words += ["-drive", "if=none,id=zeros,driver=null-co,size=64M,read-zeroes=on"]
    words += ["-device", "virtio-blk-pci,drive=zeros"]
    words += ["-accel", "tcg,thread=multi", "-kernel", str(image), "-initrd", str(ramdisk)]
    return [
        *words,
        "-append",
        "console=ttyS0 loglevel=3 panic=-1 cgroup_no_v1=all mitigations=off",
    ]


def boot(work: Path, command: list[str], memory: int, timeout: int) -> int:
    """Boot, run, print what the command printed; its exit code."""
    image, modules = kernel()
    version = image.name.removeprefix("vmlinuz-")
    ramdisk = initramfs(work, version, modules, script(modules, command))
    exit_file = work / "exit"
    with shared_root(work) as socket:
        words = machine(image, ramdisk, socket, exit_file, memory)
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with running(words, **options) as process:
            late = threading.Event()
            timer = threading.Timer(timeout, lambda: (late.set(), process.kill()))
            timer.start()
            try:
                for line in process.stdout or ():
                    print(line.decode(errors="replace").rstrip("\r\n"), flush=True)
            finally:
                timer.cancel()
    if late.is_set():
        print(f"boot.py: not done after {timeout} s", file=sys.stderr)
        return TIMED_OUT
    code = exit_file.read_text().strip() if exit_file.exists() else ""
    if not code:
        raise NoMachine("the machine ended before the command did")
    return int(code)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", type=int, default=2048)
    parser.add_argument("--timeout", type=int, default=900)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("no command")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        require_programs()
        with tempfile.TemporaryDirectory(prefix="proa-vm-") as work:
            sys.exit(boot(Path(work), options.command, options.memory, options.timeout))
    except NoMachine as error:
        print(f"boot.py: {error}", file=sys.stderr)
        sys.exit(NO_MACHINE)


if __name__ == "__main__":
    main()

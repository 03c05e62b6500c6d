"""Run a command in a small virtual machine whose only cgroup hierarchy is v2.

    python tests/vm/boot.py [--memory MIB] [--timeout SECONDS] COMMAND...

The machine is Debian's cloud kernel under qemu's software emulation (KVM is not needed). It sees this
host's root file system through virtiofs, read-only, below a tmpfs overlay: what is installed here (the
virtual environment under test, pytest, busybox) is there as well, and nothing it writes comes back. /run,
/var/lib and $TMPDIR are tmpfs, so that overlays can have their upper directories there. The command runs in
the current directory, as root; its exit code is this program's.

Needs Debian's qemu-system-x86 (with virtiofsd), busybox-static, cpio, kmod; the kernel package is
downloaded, never installed, and cached in $PROA_VM_CACHE (default /var/cache/proa-vm).
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CACHE = Path(os.environ.get("PROA_VM_CACHE", "/var/cache/proa-vm"))
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
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
LATE_MODULES = ("veth", "bridge", "nf_tables", "nft_masq", "nft_ct", "nft_chain_nat", "nf_nat", "erofs")
MARK = "proa-vm-exit:"

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
/bin/busybox mount -t tmpfs tmp /new/var/lib
/bin/busybox mkdir -p /new/var/lib/tmp
/bin/busybox mount -t cgroup2 -o nsdelegate cgroup2 /new/sys/fs/cgroup
/bin/busybox ip link set lo up
exec /bin/busybox switch_root /new /bin/sh /tmp/proa-vm-run
"""

RUN = """#!/bin/sh
for module in {late}; do modprobe -d {modules} $module 2>/dev/null; done
export PATH={path} HOME=/root TERM=dumb TMPDIR=/var/lib/tmp {environment}
cd {cwd}
{command}
echo "{mark}$?"
sync
echo o > /proc/sysrq-trigger
sleep 60
"""


def kernel() -> tuple[Path, Path]:
    """(vmlinuz, directory that holds lib/modules), unpacked in the cache."""
    found = sorted(CACHE.glob("tree/boot/vmlinuz-*"))
    if not found:
        CACHE.mkdir(parents=True, exist_ok=True)
        depends = subprocess.run(
            ["apt-cache", "depends", "linux-image-cloud-amd64"], check=True, capture_output=True, text=True
        ).stdout
        package = next(word for word in depends.split() if word.startswith("linux-image-6"))
        subprocess.run(["apt-get", "download", "-q", package], cwd=CACHE, check=True)
        archive = next(CACHE.glob("linux-image-*.deb"))
        subprocess.run(["dpkg", "-x", archive, CACHE / "tree"], check=True)
        archive.unlink()
        found = sorted(CACHE.glob("tree/boot/vmlinuz-*"))
        version = found[0].name.removeprefix("vmlinuz-")
        subprocess.run(["depmod", "-b", CACHE / "tree", version], check=True)
    return found[0], CACHE / "tree"


def initramfs(work: Path, version: str, modules: Path) -> Path:
    """A busybox initramfs that mounts the host's root and hands over to it."""
    tree = work / "initramfs"
    (tree / "bin").mkdir(parents=True)
    (tree / "m").mkdir()
    busybox = next(p for p in ("/bin/busybox", "/usr/bin/busybox") if Path(p).exists())
    shutil.copy2(busybox, tree / "bin/busybox")
    for name in EARLY_MODULES:
        source = modules / "lib/modules" / version / "kernel" / f"{name}.ko"
        shutil.copy2(source, tree / "m" / source.name)
    early = " ".join(name.rpartition("/")[2] for name in EARLY_MODULES)
    (tree / "init").write_text(INIT.format(early=early))
    (tree / "init").chmod(0o755)
    image = work / "initramfs.cpio"
    names = subprocess.run(["find", "."], cwd=tree, check=True, capture_output=True).stdout
    with image.open("wb") as out:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=names, stdout=out, check=True)
    return image


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(500):
        if path.exists():
            return
        if process.poll() is not None:
            raise SystemExit(f"virtiofsd ended with {process.returncode}")
        time.sleep(0.01)
    raise SystemExit("virtiofsd does not listen")


def boot(work: Path, command: list[str], memory: int, timeout: int) -> int:
    """Boot, run, print what the command printed; its exit code."""
    image, modules = kernel()
    version = image.name.removeprefix("vmlinuz-")
    passed = ("PYTHONPATH", "VIRTUAL_ENV", "CI", "PROA_VM_TESTS")
    environment = " ".join(f"{key}={shlex.quote(os.environ[key])}" for key in passed if key in os.environ)
    run = RUN.format(
        late=" ".join(LATE_MODULES),
        modules=modules,
        path=shlex.quote(os.environ["PATH"]),
        environment=environment,
        cwd=shlex.quote(os.getcwd()),
        command=shlex.join(command),
        mark=MARK,
    )
    ramdisk = initramfs(work, version, modules)
    # The script reaches the machine through the shared root: /tmp of the host is below it.
    script = Path("/tmp/proa-vm-run")
    script.write_text(run)
    socket = work / "virtiofs.sock"
    daemon = subprocess.Popen(
        [VIRTIOFSD, f"--socket-path={socket}", "-o", "source=/,cache=always,sandbox=chroot,xattr"],
        stdout=subprocess.DEVNULL,
        stderr=(work / "virtiofsd.log").open("wb"),
    )
    try:
        wait_for(socket, daemon)
        return run_machine(image, ramdisk, socket, memory, timeout)
    finally:
        daemon.terminate()
        daemon.wait()
        script.unlink(missing_ok=True)


def run_machine(image: Path, ramdisk: Path, socket: Path, memory: int, timeout: int) -> int:
    """Run qemu, copy the console to stdout, and find the exit code in it."""
    machine = [
        "qemu-system-x86_64",
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        str(memory),
    ]
    machine += ["-object", f"memory-backend-memfd,id=mem,size={memory}M,share=on", "-numa", "node,memdev=mem"]
    machine += ["-chardev", f"socket,id=fs,path={socket}", "-device", "vhost-user-fs-pci,chardev=fs,tag=host"]
    machine += ["-kernel", str(image), "-initrd", str(ramdisk), "-accel", "tcg,thread=multi"]
    machine += ["-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all mitigations=off"]
    process = subprocess.Popen(
        machine, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    code = 255
    deadline = time.monotonic() + timeout
    try:
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip("\r\n")
            if text.startswith(MARK):
                code = int(text.removeprefix(MARK))
                break
            print(text, flush=True)
            if time.monotonic() > deadline:
                print("boot.py: timed out", flush=True)
                break
    finally:
        process.kill()
        process.wait()
    return code


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", type=int, default=2048)
    parser.add_argument("--timeout", type=int, default=900)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="proa-vm-") as work:
        sys.exit(boot(Path(work), options.command, options.memory, options.timeout))


if __name__ == "__main__":
    main()

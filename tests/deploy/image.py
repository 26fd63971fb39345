"""The image of deploy/container, built and started without an engine and without a registry of images. As root:

    python -m tests.deploy.image [OPTION OF buildah build…]

Needs buildah and mmdebstrap, and two minutes. Both images that the Containerfile begins from are made anew of Debian's
packages, under the same names: the builder with what its apt-get would install, the other one of the very packages that
distroless lists for python3-debian13 (python3/config.bzl, base/ and cc/ there). Then buildah builds the Containerfile
as it is, and what came of it is started as an engine would start it, on a root that cannot be written to, and asked for
its health. Options: what pip needs on this machine, as --volume /etc/pip.conf:/etc/pip.conf:ro.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.deploy.containerfile import all_of
from tests.deploy.recipes import ROOT
from tests.deploy.test_container import BUILD, COMMAND, ENTRYPOINT, FOLDER, HEALTH, IMAGE, POLICY
from tests.end_to_end.daemon import ticks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RELEASE: Final = "trixie"
BUILDER: Final = ("python3", "python3-venv")
DISTROLESS: Final = (
    *("base-files", "ca-certificates", "media-types", "netbase", "tzdata"),
    *("libc6", "libssl3t64", "libzstd1", "zlib1g", "libgcc-s1", "libgomp1", "libstdc++6"),
    *("libbz2-1.0", "libdb5.3t64", "libexpat1", "liblzma5", "libsqlite3-0", "libuuid1", "libncursesw6", "libtinfo6"),
    *("libcom-err2", "libcrypt1", "libc-bin", "libgssapi-krb5-2", "libk5crypto3", "libkeyutils1", "libkrb5-3"),
    *("libkrb5support0", "libnsl2", "libreadline8t64", "libtirpc3t64", "libffi8"),
    *("libpython3.13-minimal", "libpython3.13-stdlib", "python3.13-minimal", "python3.13-venv"),
)
CONTAINED: Final = """
root=$1
mount --bind "$root" "$root"
mkdir -p "$root/proc" "$root/etc/proxyd"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/etc/proxyd"
cp "$2" "$root/etc/proxyd/policy.toml"
mount -t tmpfs -o mode=0700,uid=65532,gid=65532 tmpfs "$root/run/proxyd"
mount -t tmpfs tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3
mount -o remount,bind,ro "$root"
shift 2
exec env -i PATH=/opt/proxyd/bin:/usr/bin:/usr/sbin:/bin \\
    setpriv --no-new-privs chroot --userspec=65532:65532 --groups= "$root" "$@"
"""


def main(options: Sequence[str]) -> int:
    """Make it, start it, and say how it went."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        buildah = ("buildah", "--storage-driver=vfs", f"--root={folder}/images", f"--runroot={folder}/run")
        for stage, variant, packages in ((BUILD, "minbase", BUILDER), (IMAGE, "extract", DISTROLESS)):
            with _container(buildah, "scratch") as (container, root):
                _run(
                    "mmdebstrap",
                    f"--variant={variant}",
                    f"--include={','.join(packages)}",
                    RELEASE,
                    f"{folder}/root.tar",
                )
                _run("tar", "--extract", f"--file={folder}/root.tar", f"--directory={root}", "--exclude=./dev/*")
                for name in ("python", "python3"):
                    if variant == "extract":
                        (root / "usr/bin" / name).symlink_to("/usr/bin/python3.13")
                _run(*buildah, "commit", container, all_of(stage, "FROM")[0].value.split()[0])
        ours = (f"--ignorefile={FOLDER}/Containerfile.dockerignore", f"--file={FOLDER}/Containerfile", "--tag=proxyd")
        how = ("--isolation=chroot", "--pull-never", "--format=docker")
        _run(*buildah, "build", *how, *options, *ours, str(ROOT))
        with _container(buildah, "proxyd") as (_, root):
            _say(root)
            return _started(root, folder)


def _run(*command: str) -> str:
    """What it says. Raises CalledProcessError."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()  # noqa: S603 - ours


@contextmanager
def _container(buildah: tuple[str, ...], image: str) -> Iterator[tuple[str, Path]]:
    """A container of an image, and where its root is mounted."""
    container = _run(*buildah, "from", "--pull-never", image)
    yield container, Path(_run(*buildah, "mount", container))
    _run(*buildah, "rm", container)


def _say(root: Path) -> None:
    for path in (root, root / "opt/proxyd"):
        files = [each for each in path.rglob("*") if each.is_file() and not each.is_symlink()]
        print(f"/{path.relative_to(root)}: {sum(each.stat().st_size for each in files) / 1e6:.1f} MB")  # noqa: T201
    shells = [each for name in ("sh", "bash", "dash", "busybox", "perl", "pip") for each in root.rglob(f"bin/{name}")]
    print(f"shells and installers: {shells or 'none'}")  # noqa: T201 - what the command is for


def _started(root: Path, folder: Path) -> int:
    """0 if it became healthy, could write nowhere but where it must, and ended by SIGTERM with status 0."""
    policy = folder / "policy.toml"
    policy.write_text(
        POLICY.read_text().replace("172.30.53.2:3128", "127.0.0.1:0").replace("172.30.53.3/32", "127.0.0.0/8")
    )
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    unshare = ("unshare", "--mount", "--net", "--pid", "--fork", "sh", "-euc", CONTAINED, "sh")
    command = (*unshare, str(root), str(policy), *ENTRYPOINT.words, *COMMAND.words)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - ours
        try:
            first = _first_of(process.pid)
            inside = ("nsenter", f"--target={first}", "--mount", "--pid", "--net", "--root", "--wd=/")
            python = (*inside, "--setuid=65532", "--setgid=65532", "/opt/proxyd/bin/python", "-m")
            healthy = any(subprocess.run([*python, *HEALTH], check=False).returncode == 0 for _ in ticks())  # noqa: S603
            writes = [place for place in ("/", "/opt/proxyd", "/tmp") if _writes(first, place)]  # noqa: S108
            print(f"healthy: {healthy}; writes: {writes or 'nowhere but /run/proxyd'}")  # noqa: T201
        finally:
            os.kill(first, signal.SIGTERM)
        print(process.communicate()[0].decode())  # noqa: T201
    print(f"exit status after SIGTERM: {process.returncode}")  # noqa: T201
    return 0 if healthy and not writes and process.returncode == 0 else 1


def _first_of(pid: int) -> int:
    """Its PID 1, once it runs what it was made for."""
    for _ in ticks():
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children and b"proxyd" in Path(f"/proc/{children[0]}/cmdline").read_bytes().split(b"\0")[1]:
            return int(children[0])
    raise AssertionError("it did not start")


def _writes(pid: int, place: str) -> bool:
    """Whether that root is mounted for writing there."""
    return not os.statvfs(f"/proc/{pid}/root{place}").f_flag & os.ST_RDONLY


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

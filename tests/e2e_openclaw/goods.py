"""What OpenClaw's child processes fetch: a repository for git, a package for pip, and one for npm."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from typing import TYPE_CHECKING, Final

from tests.tools import tool

if TYPE_CHECKING:
    from pathlib import Path

NAME, VERSION = "tiny", "1.0.0"
WHEEL: Final = f"{NAME}-{VERSION}-py3-none-any.whl"
TARBALL: Final = f"{NAME}-{VERSION}.tgz"
README: Final = "It came through the proxy.\n"

_METADATA: Final = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n"


def put(folder: Path, registry: str) -> None:
    """Put all of it in a folder that a web server serves; registry: its URL, which npm reads in what it is told."""
    _put_repository(folder)
    _put_wheel(folder)
    _put_tarball(folder, registry)


def _put_repository(folder: Path) -> None:
    """A bare repository, for any web server (git-update-server-info(1))."""
    work, bare = folder / "work", folder / f"{NAME}.git"
    work.mkdir()
    (work / "README").write_text(README)
    author = ("-c", "user.name=Tests", "-c", "user.email=tests@origin.test")
    for where, arguments in (
        (work, ("init", "--quiet")),
        (work, ("add", "README")),
        (work, (*author, "commit", "--quiet", "--message", "One file")),
        (folder, ("clone", "--quiet", "--bare", str(work), str(bare))),
        (bare, ("update-server-info",)),
    ):
        subprocess.run([tool("git"), *arguments], check=True, cwd=where, capture_output=True)  # noqa: S603 - fixed


def _put_wheel(folder: Path) -> None:
    """A package index of one wheel (PEP 503, PEP 427)."""
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(f"{NAME}.py", "")
        wheel.writestr(f"{NAME}-{VERSION}.dist-info/METADATA", _METADATA)
        wheel.writestr(f"{NAME}-{VERSION}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{NAME}-{VERSION}.dist-info/RECORD", "")
    index = folder / "index" / NAME
    index.mkdir(parents=True)
    (index / "index.html").write_text(f'<!DOCTYPE html><a href="../../{WHEEL}">{WHEEL}</a>')


def _put_tarball(folder: Path, registry: str) -> None:
    """A registry's document of one package, and the package."""
    package = json.dumps({"name": NAME, "version": VERSION}).encode()
    with tarfile.open(folder / TARBALL, "w:gz") as tarball:
        about = tarfile.TarInfo("package/package.json")
        about.size = len(package)
        tarball.addfile(about, io.BytesIO(package))
    digest = base64.b64encode(hashlib.sha512((folder / TARBALL).read_bytes()).digest()).decode()
    dist = {"tarball": f"{registry}/{TARBALL}", "integrity": f"sha512-{digest}"}
    version = {"name": NAME, "version": VERSION, "dist": dist}
    document = {"name": NAME, "dist-tags": {"latest": VERSION}, "versions": {VERSION: version}}
    (folder / NAME).write_text(json.dumps(document))

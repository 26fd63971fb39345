"""What recipes ask the public web for: a page, a repository, a package of each kind. Each is as small as it can be."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zipfile
from typing import TYPE_CHECKING, Final

from tests.tools import tool

if TYPE_CHECKING:
    from pathlib import Path

PAGE: Final = "<p>a page of the public web</p>"
_WHEEL: Final = "six-1.17.0-py2.py3-none-any.whl"


def stock(root: Path) -> None:
    """Put everything where a mirror of the hosts finds it."""
    for path, content in {
        "example.com/index.html": f"{PAGE}\n".encode(),
        "deb.debian.org/debian/Packages": b"Package: nothing\nVersion: 1\nArchitecture: all\nFilename: ./nothing\n\n",
        "pypi.org/simple/six/index.html": f'<a href="https://files.pythonhosted.org/{_WHEEL}">{_WHEEL}</a>'.encode(),
        f"files.pythonhosted.org/{_WHEEL}": _wheel(),
        "registry.npmjs.org/left-pad.tgz": (package := _npm_package()),
        "registry.npmjs.org/left-pad": _npm_document(package),
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    _repository(root / "github.com/you/repository.git")


def _wheel() -> bytes:
    """A wheel of nothing (the binary distribution format, PEP 427)."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("six-1.17.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: six\nVersion: 1.17.0\n")
        archive.writestr("six-1.17.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("six-1.17.0.dist-info/RECORD", "")
    return written.getvalue()


def _npm_package() -> bytes:
    written, content = io.BytesIO(), json.dumps(_named()).encode()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        described = tarfile.TarInfo("package/package.json")
        described.size = len(content)
        archive.addfile(described, io.BytesIO(content))
    return written.getvalue()


def _npm_document(package: bytes) -> bytes:
    """What the registry says of all versions of a package."""
    integrity = f"sha512-{base64.b64encode(hashlib.sha512(package).digest()).decode()}"
    dist = {"tarball": "https://registry.npmjs.org/left-pad.tgz", "integrity": integrity}
    versions = {"1.3.0": _named() | {"dist": dist}}
    return json.dumps({"name": "left-pad", "dist-tags": {"latest": "1.3.0"}, "versions": versions}).encode()


def _named() -> dict[str, object]:
    return {"name": "left-pad", "version": "1.3.0"}


def _repository(folder: Path) -> None:
    """A bare repository with one commit, ready for the dumb HTTP protocol (git-update-server-info(1))."""
    work = folder.with_suffix(".work")
    git = [tool("git"), "-c", "user.name=you", "-c", "user.email=you@example.com"]
    for words in (
        ("init", "--quiet", work),
        ("-C", work, "commit", "--quiet", "--allow-empty", "--message", "begun"),
        ("clone", "--quiet", "--bare", work, folder),
        ("-C", folder, "update-server-info"),
    ):
        subprocess.run([*git, *map(str, words)], check=True, capture_output=True)  # noqa: S603 - a program we looked up
    shutil.rmtree(work)

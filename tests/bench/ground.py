"""What a run stands on: a network of its own, and the load program, built."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests import namespace
from tests.bench import names
from tests.bench.contenders import CannotRun

SOURCES: Final = [str(Path(__file__).with_name(name)) for name in ("load.c", "origin.c")]
TIME_WAIT_BUCKETS: Final = 512  # else loopback runs out of ports, and what is measured is the kernel looking for one


def enter_own_network(directory: Path) -> None:
    """Traffic to public addresses must not leave this machine: no namespace, no bench. Raises CannotRun."""
    why = ""
    try:
        namespace.enter()
        names.show_own_files(directory)
    except (OSError, subprocess.CalledProcessError) as error:
        why = f" ({error})"
    if why or not namespace.isolated:
        raise CannotRun(f"no namespaces of our own can be had here{why}; run as root, or allow user namespaces")
    try:
        Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text(str(TIME_WAIT_BUCKETS))
    except OSError as error:
        print(f"tcp_max_tw_buckets stays: {error}; figures for new connections may collapse", file=sys.stderr)  # noqa: T201 - said to the user


def build(directory: Path) -> Path:
    """Compile the load program. Raises CannotRun."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotRun("cc is missing: install a C compiler (Debian: gcc and libc6-dev)")
    program = directory / "load"
    built = subprocess.run(  # noqa: S603 - our own source
        [compiler, "-O2", "-o", str(program), *SOURCES], check=False, capture_output=True, text=True
    )
    if built.returncode != 0:
        raise CannotRun(f"cc cannot build load.c and origin.c:\n{built.stderr}")
    return program

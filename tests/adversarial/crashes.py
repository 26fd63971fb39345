"""Daemons with a bug: somewhere in proxyd an exception that is full of secrets (ATTACKS 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.end_to_end.patient import driven

if TYPE_CHECKING:
    from pathlib import Path

    from tests.adversarial.secrets import Plant
    from tests.end_to_end.conftest import Scene
    from tests.end_to_end.daemon import Daemon

CRASH = """import importlib

def boom(*args, **kwargs):
    open({mark!r}, "a").write("x")
    held = {secret!r}
    error = RuntimeError(held, args, kwargs)
    error.add_note(held)
    raise ExceptionGroup(held, [error]) from ValueError(held)

holder, name = importlib.import_module({module!r}), {function!r}
if "." in name:
    holder, name = getattr(holder, name.split(".")[0]), name.split(".")[1]
setattr(holder, name, boom)
"""
CRASHES = {
    "of the head's lines": ("proxyd.net.wire", "check_head"),
    "of the request": ("proxyd.serve.exchange", "read_request"),
    "of the judgement": ("proxyd.serve.judge", "decide"),
    "of a refusal": ("proxyd.serve.exchange", "refusal"),
    "of a DNS answer": ("proxyd.net.resolver", "_read_answer"),
    "of fields to the origin": ("proxyd.serve.exchange", "request_to_origin"),
    "of fields to the client": ("proxyd.serve.forward", "response_to_client"),
    "of trailers": ("proxyd.serve.forward", "trailers"),
    "of a tunnel": ("proxyd.net.tunnels", "Tunnels.adopt"),
}
"""Where a session meets it."""


def crashing(scene: Scene, directory: Path, site: tuple[str, str], held: Plant) -> tuple[Daemon, Path]:
    """A daemon that has this bug, and a file that is there once it was met."""
    mark = directory / "mark"
    driver = CRASH.format(mark=str(mark), secret=held.secret, module=site[0], function=site[1])
    return scene.start(env=driven(directory, driver)), mark

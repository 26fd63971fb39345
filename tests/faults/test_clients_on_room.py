"""Clients who are asked to leave, or who hold up others before they speak: there is room for who comes (ATTACKS 8).

Real sockets show what streams in memory do not: that a place is free, and its file, though the client never lets go.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from proxyd.serve.crowd import LEAVING
from proxyd.serve.listener import HANDSHAKES
from tests.end_to_end.asking import get
from tests.end_to_end.test_listeners import Secured
from tests.faults.difficult import Crowds, is_open, leave
from tests.faults.ordeal import ordeal

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from tests.end_to_end.conftest import Scene

PLACES: Final = LEAVING + 36


def test_attack_8_who_dribbles_on_after_the_refusal_keeps_nobody_out(scene: Scene, crowds: Crowds) -> None:
    """Each would be heard out for 5 s: more of them than may leave at once come while the first still do."""
    proxy = scene.start(f"[limits]\nconnections = {PLACES}\n")
    dribbling: list[socket.socket] = []
    with ordeal(scene, proxy) as bystander:
        for _ in range(4):
            newcomers = crowds.gather(proxy, PLACES, 1, places=1)
            for client in newcomers:
                client.sendall(b"GET http://x/ HTTP/1.1\r\nX: ")
            dribbling += newcomers
            dribble(dribbling)
            bystander.go_on()
        leave(dribbling)


def dribble(clients: list[socket.socket]) -> None:
    """One octet more of each, whatever it has been told."""
    for client in clients:
        with suppress(OSError):
            client.send(b"y")


def test_attack_8_who_never_shakes_hands_keeps_nobody_out(scene: Scene, tmp_path: Path, crowds: Crowds) -> None:
    """Silent by the hundred, and again as often as one is let go; also who comes from the same address is served."""
    secured = Secured(scene, tmp_path)
    silent = crowds.add(*(secured.plain() for _ in range(HANDSHAKES + 50)))
    for _ in range(20):
        with secured.connect() as client:
            assert get(client, f"{scene.url}/").status == 200
        silent += crowds.add(secured.plain())
    assert sum(is_open(each) for each in silent) <= HANDSHAKES
    assert [each["status"] for each in secured.daemon.closings()] == [200] * 20

"""Workers count at the same time, each a process of its own, and die."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

from proxyd.observe.tally import read_totals, strike_out
from tests.observe.counted import memory

if TYPE_CHECKING:
    from proxyd.observe.tally import Totals

TEST_SECONDS: Final = 60.0
"""After which a process that counts is stuck."""

_COUNT: Final = """
import sys
from proxyd.audit.record import Record
from proxyd.observe.tally import Tally

fd, worker, times = map(int, sys.argv[1:])
tally = Tally(fd, worker, ("", "agent"))
print("ready", flush=True)
sys.stdin.readline()
for number in range(times):
    facts = {"time": "now", "id": str(number), "client": "agent", "verdict": "allow", "scheme": "connect"}
    tally.accepted()
    tally.count(Record(event="decision", **facts))
    tally.took("dns", 0.5)
    if number % 10:
        tally.count(Record(event="close", bytes_up=worker + 1, bytes_down=2, **facts))
    tally.beat(number + 1.0, 5)
print("done", flush=True)
sys.stdin.readline()
"""


def test_workers_that_count_at_the_same_time_do_not_disturb_each_other() -> None:
    """Real processes, killed in the end: not one count is lost, and what is read meanwhile only rises."""
    workers, times = 2, 3000
    with memory(workers) as fd:
        crew = [
            subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-c", _COUNT, str(fd), str(worker), str(times)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[fd],
                text=True,
            )
            for worker in range(workers)
        ]
        try:
            _meet(crew, "ready")
            seen = [read_totals(fd, workers, ("", "agent"))]
            while min(seen[-1].pulses) < times:
                seen.append(read_totals(fd, workers, ("", "agent")))
            _meet(crew, "done")
        finally:
            for each in crew:
                each.kill()
                each.communicate(timeout=TEST_SECONDS)
        after = read_totals(fd, workers, ("", "agent"))
        for worker in range(workers):
            strike_out(fd, worker, 2)
        struck = read_totals(fd, workers, ("", "agent"))
    for figure in ("connections", "decided", "ended", "timed", "bytes"):
        figures = [_figures(each)[figure] for each in seen]
        assert figures == sorted(figures), figure
    ended = times - times // 10
    assert _figures(after) == {
        "connections": workers * times,
        "decided": workers * times,
        "ended": workers * ended,
        "timed": workers * times,
        "bytes": 3 * ended + 4 * ended,
        "open": workers * (times // 10),
    }
    assert _figures(struck) == _figures(after) | {"open": 0}
    assert (after.pulses, struck.pulses) == ((float(times),) * workers, (0.0,) * workers)


def _meet(crew: list[subprocess.Popen[str]], word: str) -> None:
    """Hear a word of each, and then let all of them go on."""
    for each in crew:
        assert each.stdout is not None
        assert each.stdout.readline() == f"{word}\n"
    for each in crew:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()


def _figures(totals: Totals) -> dict[str, int]:
    account = totals.accounts["agent"]
    return {
        "connections": totals.connections,
        "decided": sum(account.decided.values()),
        "ended": sum(account.ended.values()),
        "timed": sum(totals.timed["dns"].counts),
        "bytes": account.bytes_up + account.bytes_down,
        "open": account.tunnels,
    }

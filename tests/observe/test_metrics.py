"""The exposition, read back as Prometheus reads it: names, types and labels are an interface, and none is a host."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from proxyd import __version__
from proxyd.observe.metrics import CONTENT_TYPE, News, exposition
from proxyd.observe.tally import BOUNDS, KINDS, MOST_ACCOUNTS, TIMED, read_totals, strike_out
from proxyd.policy.verdict import STEP_OF, Reason
from tests.observe.counted import ACCOUNTS, WORKERS, counting, memory, record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxyd.observe.tally import Tally, Totals

    Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

NOBODY_S_PID: Final = 2**22 + 1  # beyond the most that Linux gives out
NEWS: Final = News(
    policy="gateway",
    digest="f" * 64,
    mode="enforce",
    loaded_at=1_800_000_000.5,
    reloads={"done": 3},
    reloaded=False,
    workers=4,
    serving=3,
    deaths=2,
    processes={},
)

FAMILIES: Final = {
    "proxyd_decisions": ("counter", {"client", "verdict", "reason"}),
    "proxyd_requests": ("counter", {"client", "verdict", "reason"}),
    "proxyd_bytes": ("counter", {"client", "direction"}),
    "proxyd_open": ("gauge", {"client", "kind"}),
    "proxyd_lookup_seconds": ("histogram", {"le"}),
    "proxyd_connect_seconds": ("histogram", {"le"}),
    "proxyd_first_byte_seconds": ("histogram", {"le"}),
    "proxyd_audit_write_seconds": ("histogram", {"le"}),
    "proxyd_tasks": ("gauge", set[str]()),
    "proxyd_connections": ("counter", set[str]()),
    "proxyd_connections_dropped": ("counter", set[str]()),
    "proxyd_audit_failures": ("counter", set[str]()),
    "proxyd_build_info": ("gauge", {"version"}),
    "proxyd_policy_info": ("gauge", {"policy", "digest", "mode"}),
    "proxyd_policy_loaded_timestamp_seconds": ("gauge", set[str]()),
    "proxyd_reloads": ("counter", {"outcome"}),
    "proxyd_reload_successful": ("gauge", set[str]()),
    "proxyd_workers": ("gauge", set[str]()),
    "proxyd_workers_serving": ("gauge", set[str]()),
    "proxyd_worker_deaths": ("counter", set[str]()),
    "proxyd_process_virtual_memory_bytes": ("gauge", {"process"}),
    "proxyd_process_resident_memory_bytes": ("gauge", {"process"}),
    "proxyd_process_start_time_seconds": ("gauge", {"process"}),
    "proxyd_process_cpu_seconds": ("counter", {"process"}),
    "proxyd_process_open_fds": ("gauge", {"process"}),
    "proxyd_process_max_fds": ("gauge", {"process"}),
}
"""What dashboards and alert rules rely on; a new one may join, a changed one breaks them."""
OURS: Final = {"supervisor": os.getpid()}
TIMERS: Final = dict(zip(TIMED, (name for name, (kind, _) in FAMILIES.items() if kind == "histogram"), strict=True))


def told(**facts: Any) -> News:  # noqa: ANN401 - fields of News
    """News, but for these facts."""
    return replace(NEWS, **facts)


def shown(totals: Totals, news: News = NEWS) -> Samples:
    """Every sample as it is read: its name and labels, each once."""
    found: Samples = {}
    for family in text_string_to_metric_families(exposition(totals, news).decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, "Prometheus takes the first and drops the second"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """One of them."""
    return samples[name, frozenset(labels.items())]


def totals(fd: int, accounts: Sequence[str] = ACCOUNTS) -> Totals:
    """What there is by now."""
    return read_totals(fd, WORKERS, accounts)


def some_of_everything(tally: Tally) -> None:
    """Have something of each figure."""
    tally.beat(1.0, 12)
    tally.accepted()
    tally.accepted()
    tally.dropped()
    tally.unwritten(record("stop"))
    tally.count(record(scheme="connect"))
    tally.count(record(number=2, client=None, verdict="deny", reason="client_unknown"))
    tally.count(record("close", 3, verdict="error", reason="origin_closed", bytes_up=3, bytes_down=2**53))
    for number, what in enumerate(TIMED, 1):
        tally.took(what, number / 8)


def test_the_format_is_the_one_that_prometheus_asks_for() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=")


def test_families_have_the_documented_names_types_and_labels_and_there_are_no_others() -> None:
    with memory() as fd, counting(fd) as tally:
        some_of_everything(tally)
        text = exposition(totals(fd), told(processes=OURS)).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels}
        found[family.name] = (family.type, labels)
        assert family.documentation
        assert family.samples, family.name
    assert found == FAMILIES


def test_what_was_counted_is_shown() -> None:
    with memory() as fd, counting(fd) as tally, counting(fd, 2) as other:
        some_of_everything(tally)
        other.accepted()
        other.count(record(number=2, scheme="http"))
        samples = shown(totals(fd))
    allowed = {"client": "agent", "verdict": "allow", "reason": ""}
    assert value(samples, "proxyd_decisions_total", **allowed) == 2
    assert value(samples, "proxyd_requests_total", **allowed) == 0
    unknown = {"client": "", "verdict": "deny", "reason": "client_unknown"}
    assert value(samples, "proxyd_decisions_total", **unknown) == 1
    failed = {"client": "agent", "verdict": "error", "reason": "origin_closed"}
    assert value(samples, "proxyd_requests_total", **failed) == 1
    octets = {way: value(samples, "proxyd_bytes_total", client="agent", direction=way) for way in ("up", "down")}
    assert octets == {"up": 3, "down": 2**53}
    under_way = {kind: value(samples, "proxyd_open", client="agent", kind=kind) for kind in ("tunnel", "request")}
    assert under_way == {"tunnel": 1, "request": 1}
    plain = (
        "tasks",
        "connections_total",
        "connections_dropped_total",
        "audit_failures_total",
    )
    assert [value(samples, f"proxyd_{name}") for name in plain] == [12, 3, 1, 1]


def test_what_the_supervisor_knows_is_shown() -> None:
    with memory() as fd:
        samples = shown(totals(fd))
    assert value(samples, "proxyd_build_info", version=__version__) == 1
    assert value(samples, "proxyd_policy_info", policy="gateway", digest="f" * 64, mode="enforce") == 1
    assert value(samples, "proxyd_policy_loaded_timestamp_seconds") == 1_800_000_000.5
    assert [value(samples, "proxyd_reloads_total", outcome=each) for each in ("done", "refused")] == [3, 0]
    names = ("reload_successful", "workers", "workers_serving", "worker_deaths_total")
    assert [value(samples, f"proxyd_{name}") for name in names] == [0, 4, 3, 2]


def test_what_alerts_are_made_of_is_there_before_it_happens_for_the_first_time() -> None:
    """A counter that appears at 1 was never seen to rise: every reason of every client begins at 0."""
    with memory() as fd:
        samples = shown(totals(fd))
    denials = {*STEP_OF, Reason.TLS_NAME, Reason.REVOKED} - {
        Reason.MALFORMED_TARGET
    }  # which is no judgement of a place
    for client in ACCOUNTS:
        for name in ("proxyd_decisions_total", "proxyd_requests_total"):
            found = {
                (labels["verdict"], labels["reason"])
                for each, labels in ((each, dict(labels)) for each, labels in samples)
                if each == name and labels["client"] == client
            }
            assert {("allow", ""), ("allow", "not_allowlisted")} <= found
            assert {reason for verdict, reason in found if verdict == "deny"} == denials
            failures = {reason for verdict, reason in found if verdict == "error"}
            assert failures == set(map(str, Reason)) - denials
    assert {count for (name, _), count in samples.items() if name.endswith("_total")} == {0.0, 2.0, 3.0}


# Histograms


def test_the_intervals_of_a_histogram_are_cumulative_and_end_with_all() -> None:
    with memory() as fd, counting(fd) as tally:
        for number, bound in enumerate((*BOUNDS, 60.0)):
            for _ in range(number + 1):
                tally.took("connect", bound)
        tally.took("dns", 0.5)
        samples = shown(totals(fd))
    name = TIMERS["connect"]
    rising = [value(samples, f"{name}_bucket", le=str(bound)) for bound in BOUNDS]
    assert rising == [number * (number + 1) / 2 for number in range(1, len(BOUNDS) + 1)]
    everything = (len(BOUNDS) + 1) * (len(BOUNDS) + 2) / 2
    assert value(samples, f"{name}_bucket", le="+Inf") == value(samples, f"{name}_count") == everything
    spent = sum(bound * number for number, bound in enumerate((*BOUNDS, 60.0), 1))
    assert value(samples, f"{name}_sum") == pytest.approx(spent)
    assert value(samples, f"{TIMERS['dns']}_count") == 1
    assert value(samples, f"{TIMERS['audit']}_count") == 0


# Labels


def test_r7_attack_9_no_host_address_path_account_or_id_is_in_it() -> None:
    """Whatever a record has of a destination: an agent that makes names up must not fill anybody's memory with them."""
    planted: dict[str, Any] = {
        "host": "planted-host.example",
        "address": "93.184.216.99",
        "addresses": ("93.184.216.98",),
        "client_address": "10.77.77.77",
        "user": "planted-user",
        "method": "PLANTED",
        "rule": "planted-rule",
        "refused": "planted-refused.example",
        "outcome": "planted-outcome",
        "policy": "planted-policy",
        "digest": "0123456789abcdef",
        "port": 54321,
    }
    with memory() as fd, counting(fd) as tally:
        for number, (verdict, reason) in enumerate(KINDS):
            facts = planted | {"verdict": verdict, "reason": reason or None}
            tally.count(record(number=number, **facts))
            tally.count(record("close", number, **facts))
            tally.count(record(number=number, client="planted-client", **facts))
        text = exposition(totals(fd), NEWS).decode().lower()
    assert 'reason="address_denied"' in text
    assert [each for each in ("planted", "93.184", "10.77", "0123456789abcdef", "54321") if each in text] == []


def test_the_labels_are_as_few_as_clients_verdicts_and_reasons() -> None:
    """ATTACKS 8: whoever asks for a million things fills no memory but these."""
    with memory() as fd, counting(fd) as tally:
        for number, (verdict, reason) in enumerate(KINDS * 3):
            tally.count(record(number=number, verdict=verdict, reason=reason or None, client=f"made-up-{number}"))
        samples = shown(totals(fd))
    of_kind = [dict(labels) for name, labels in samples if name == "proxyd_decisions_total"]
    assert {labels["client"] for labels in of_kind} == set(ACCOUNTS)
    assert sum(not labels["client"] for labels in of_kind) == len(KINDS) == 3 * (1 + len(Reason))


@given(names=st.lists(st.text(max_size=20), min_size=1, max_size=3, unique=True), policy=st.text(max_size=20))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("more", [[], ['a"b', "a\\b", "a\nb", "\\n", 'a",client="other', "}", " 1\n#"]])
def test_attack_9_a_name_is_a_label_and_nothing_else(names: list[str], policy: str, more: list[str]) -> None:
    """Whatever an operator calls a client or a policy: it neither breaks a line nor makes another sample."""
    accounts = list(dict.fromkeys(("", *names, *more)))
    with memory() as fd, counting(fd, 0, accounts) as tally:
        for number, name in enumerate(accounts):
            tally.count(record("close", number, client=name, bytes_up=number))
        samples = shown(totals(fd, accounts), told(policy=policy))
    for number, name in enumerate(accounts):
        assert value(samples, "proxyd_bytes_total", client=name, direction="up") == number
    assert value(samples, "proxyd_policy_info", policy=policy, digest="f" * 64, mode="enforce") == 1
    assert {dict(labels)["client"] for name, labels in samples if name == "proxyd_open"} == set(accounts)


# Processes


def test_each_of_our_processes_is_shown_by_its_place() -> None:
    """What the kernel says of it; by its place, so that one that replaces another is the same line."""
    with memory() as fd:
        both = shown(totals(fd), told(processes={"supervisor": os.getpid(), "worker-0": os.getppid()}))
        other = shown(totals(fd), told(processes={"worker-0": os.getpid()}))
    for name, (_, labels) in FAMILIES.items():
        if "process" in labels:
            total = f"{name}_total" if name.endswith("cpu_seconds") else name
            assert value(both, total, process="supervisor") >= 0
            assert value(both, total, process="worker-0") >= 0
    started = "proxyd_process_start_time_seconds"
    assert value(other, started, process="worker-0") == value(both, started, process="supervisor")
    assert value(both, "proxyd_process_resident_memory_bytes", process="supervisor") > 2**20


def test_a_process_that_has_just_ended_is_left_out() -> None:
    """It is reaped the next moment; the figures of the others are shown all the same."""
    with memory() as fd:
        samples = shown(totals(fd), told(processes={"worker-0": NOBODY_S_PID, **OURS}))
    assert {dict(labels)["process"] for name, labels in samples if "process" in dict(labels)} == {"supervisor"}


# Over time


def test_no_counter_falls_when_a_worker_dies_or_a_reload_adds_a_client() -> None:
    """What falls is taken for a restart, and rates are wrong from then on. Only what is open ends with a worker."""
    accounts = ["", "agent"]
    seen: list[Samples] = []
    with memory() as fd:
        for client in ("third", "fourth", "fifth"):
            with counting(fd, 1, accounts) as tally:
                some_of_everything(tally)
                tally.count(record(number=9, client=client, scheme="connect"))
                seen.append(shown(totals(fd, accounts)))
                assert value(seen[-1], "proxyd_open", client="agent", kind="tunnel") == 1
            strike_out(fd, 1, len(accounts))
            seen.append(shown(totals(fd, accounts)))
            assert {count for (name, _), count in seen[-1].items() if name == "proxyd_open"} == {0.0}
            accounts.append(client)
            seen.append(shown(totals(fd, accounts)))
    for before, after in pairwise(seen):
        assert before.keys() <= after.keys()
        for (name, labels), count in before.items():
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                assert after[name, labels] >= count, (name, labels)


def test_as_many_clients_as_are_counted_apart_are_shown() -> None:
    """And the one beyond is nobody: its name is not even shown."""
    names = ["", *(f"client-{number}" for number in range(1, MOST_ACCOUNTS + 1))]
    with memory(1) as fd, counting(fd, 0, names) as tally:
        tally.count(record(client=names[-1]))
        tally.count(record(client=names[-2]))
        text = exposition(read_totals(fd, 1, names), NEWS).decode()
    assert f'{{client="{names[-2]}",reason="",verdict="allow"}} 1.0\n' in text
    assert '{client="",reason="",verdict="allow"} 1.0\n' in text
    assert f'"{names[-1]}"' not in text

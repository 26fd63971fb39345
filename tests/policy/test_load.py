"""Policy files -> Policy, or every problem at once: keys, includes, and files with secrets.

R7, R8, R12, ATTACKS 8, 9. The files are in memory: this floor never opens one.
"""

from __future__ import annotations

import tomllib
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.policy.load import MAX_DEPTH, MAX_LINE, PolicyError, load
from proxyd.policy.schema import policy_schema
from tests.policy.worlds import BESIDE_FULL, FULL, HUGE, MINIMAL, TODAY, files, loaded, nets, problems

INCLUDING = 'include = ["rows.toml"]\n' + MINIMAL
DENY = '[[deny]]\nname = "{0}"\nreason = "a test"\nhosts = ["{0}.example"]\n'
ALLOW = '[[allow]]\nreason = "a test"\nhosts = ["a.example"]\nports = {0}\n'
PERMIT = '[[permit]]\nreason = "a test"\nhost = "{host}"\nports = [443]\nnetworks = ["{network}"]\n{more}\n'

# What is read


def test_the_smallest_policy_is_read() -> None:
    policy = loaded()
    assert (policy.name, policy.destinations.default, policy.destinations.mode) == ("gateway", "deny", "enforce")
    assert [client.name for client in policy.client] == ["agent"]
    assert (policy.deny, policy.allow, policy.permit, policy.test) == ((), (), (), ())
    assert (policy.audit.to, policy.audit.dangerously_prefer_availability) == ("stdout", False)


def test_a_policy_with_every_key_is_read() -> None:
    policy = loaded(FULL, **{**BESIDE_FULL, "rows": DENY.format("more")})
    assert [row.label for row in policy.deny] == ["corp", "more"]
    assert policy.deny[0].networks == nets("203.0.112.0/22")
    assert [row.ports for row in policy.allow] == [(range(443, 444),)]
    assert policy.permit[0].expires == date(2027, 1, 31)
    assert policy.destinations.ports == (range(443, 444), range(8000, 8100))
    assert [str(each) for each in policy.dns.servers] == ["9.9.9.9", "tls://[2620:fe::fe]#dns.example"]
    assert policy.limits.drain_seconds == 0
    agent, other = policy.client
    assert (agent.users, agent.destinations.tls_name, agent.limits.tunnels) == (("openclaw", 1001), "off", 200)
    assert (agent.egress.interface, agent.permit[0].networks) == ("eth0", nets("10.0.0.0/24"))
    assert other.credential is not None


def test_the_fullest_policy_uses_every_key_there_is() -> None:
    assert used(DOCUMENT) == there_are(policy_schema())


def used(value: object, path: str = "") -> set[str]:
    """The path of every key in a document, whatever place it has in a list."""
    if isinstance(value, list):
        return {each for item in value for each in used(item, path)}
    if not isinstance(value, dict):
        return set()
    below = {each for name, item in value.items() for each in used(item, f"{path}.{name}")}
    return below | {f"{path}.{name}" for name in value}


def there_are(accepts: dict[str, Any], path: str = "") -> set[str]:
    """The path of every key that the schema knows."""
    table = accepts.get("items", accepts).get("properties", {})
    below = {each for name, item in table.items() for each in there_are(item, f"{path}.{name}")}
    return below | {f"{path}.{name}" for name in table}


def test_a_row_without_a_name_is_called_by_its_file_and_place() -> None:
    policy = loaded(FULL, **{**BESIDE_FULL, "rows": ALLOW.format("[443]")})
    assert policy.allow[1].label == "rows.toml: allow[0]"
    assert policy.test[1].label == "main.toml: test[1]"


def test_r7_rows_of_a_client_are_called_by_their_file_and_place_too() -> None:
    """Else two clients' rows without a name would be one in the log."""
    own = 'reason = "x"\nhosts = ["a.example"]\nports = [443]\n'
    policy = loaded(
        MINIMAL
        + f"[[client.allow]]\n{own}[[client.allow]]\n{own}"
        + '[[client]]\nname = "second"\nnetworks = ["10.0.0.0/8"]\n'
        + f'[[client.allow]]\n{own}[[client.permit]]\nreason = "x"\nhost = "a.example"\nports = [443]\n'
        + 'networks = ["10.0.0.0/8"]\n[[client.deny]]\nname = "x"\nreason = "x"\nhosts = ["b.example"]\n'
    )
    agent, second = policy.client
    assert (agent.where, second.where) == ("main.toml: client[0]", "main.toml: client[1]")
    assert [row.label for row in agent.allow] == ["main.toml: client[0].allow[0]", "main.toml: client[0].allow[1]"]
    assert [row.label for row in second.allow] == ["main.toml: client[1].allow[0]"]
    assert [row.label for row in second.permit] == ["main.toml: client[1].permit[0]"]
    assert [row.where for row in second.deny] == ["main.toml: client[1].deny[0]"]


# Required keys and types, key by key

DOCUMENT = tomllib.loads(FULL)
Path = tuple[str | int, ...]


def paths(value: object, at: Path = ()) -> list[Path]:
    """The path of every key and item of a document."""
    children: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [(*at, name) for name, _ in children] + [
        each for name, child in children for each in paths(child, (*at, name))
    ]


def spelt(path: Path) -> str:
    """A path as a problem spells it."""
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in path).removeprefix(".")


def toml(value: object) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return hex(value)  # of any length, which a decimal one cannot have
    return f'"{value}"' if isinstance(value, str) else str(value)


def changed(value: Any, path: Path, change: object) -> Any:  # noqa: ANN401 - a TOML document
    """The document with another value at a path, or with none there for `...`."""
    step, *rest = path
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    kept = [
        (name, changed(each, tuple(rest), change) if name == step and rest else change if name == step else each)
        for name, each in pairs
        if name != step or rest or change is not ...
    ]
    return dict(kept) if isinstance(value, dict) else [each for _, each in kept]


def written(document: dict[str, object]) -> str:
    return "\n".join(f"{name} = {toml(each)}" for name, each in document.items())


KEYS = [path for path in paths(DOCUMENT) if isinstance(path[-1], str)]
REQUIRED = """
schema name listen destinations destinations.default client parent.address dns.zone[0].suffix dns.zone[0].servers
client[0].name client[0].credential.user client[1].name client[1].credential.user
client[0].deny[0].name client[0].deny[0].reason
client[0].allow[0].reason client[0].allow[0].hosts client[0].allow[0].ports client[0].permit[0].reason
client[0].permit[0].host client[0].permit[0].ports client[0].permit[0].networks
deny[0].name deny[0].reason allow[0].reason allow[0].hosts allow[0].ports
permit[0].reason permit[0].host permit[0].ports permit[0].networks
test[0].url test[0].expect test[1].url test[1].expect
""".split()  # noqa: SIM905


def test_the_document_is_the_one_that_is_read() -> None:
    assert problems(written(DOCUMENT), **BESIDE_FULL) == problems(FULL, **BESIDE_FULL) == []


@pytest.mark.parametrize("path", KEYS, ids=spelt)
def test_r12_a_missing_key_is_named_exactly_where_it_is_required(path: Path) -> None:
    document = changed(DOCUMENT, path, ...)
    missing = [each for each in problems(written(document), **BESIDE_FULL) if ": is missing; " in each]
    if spelt(path) in REQUIRED:
        (problem,) = missing
        assert problem.startswith(f"main.toml: {spelt(path)}: is missing; ")
    else:
        assert missing == []


@pytest.mark.parametrize("path", paths(DOCUMENT), ids=spelt)
@pytest.mark.parametrize(
    "wrong",
    [{"zzz": 1}, 1.5, [[]], "", int(HUGE, 0), [int(HUGE, 0)]],
    ids=["table", "float", "list", "empty", "huge", "huge-in-a-list"],
)
def test_r12_a_value_of_the_wrong_type_is_named(path: Path, wrong: object) -> None:
    found = problems(written(changed(DOCUMENT, path, wrong)), **BESIDE_FULL)
    assert found
    assert all(each.startswith(f"main.toml: {spelt(path)}") for each in found)


def tables(value: object, at: Path = ()) -> list[Path]:
    """The path of every table of a document, itself first."""
    return [each for each in [(), *paths(value, at)] if isinstance(_at(value, each), dict)]


def _at(value: Any, path: Path) -> Any:  # noqa: ANN401 - a TOML document
    for step in path:
        value = value[step]
    return value


@pytest.mark.parametrize("table", tables(DOCUMENT), ids=spelt)
def test_r12_an_unknown_key_is_named(table: Path) -> None:
    extended = {**_at(DOCUMENT, table), "zzz": 1}
    document = changed(DOCUMENT, table, extended) if table else extended
    (problem,) = problems(written(document), **BESIDE_FULL)
    assert problem.startswith(f"main.toml: {spelt((*table, 'zzz'))}: unknown key; ")


def test_all_problems_of_all_files_are_said_at_once() -> None:
    main = 'include = ["a.toml", "gone.toml", "b.toml"]\n' + MINIMAL
    found = problems(main, a="[[deny]]", b='[[allow]]\nhosts = ["A.example"]\nreason = "x"')
    assert [each.partition(": ")[0] for each in found] == ["a.toml", "a.toml", "gone.toml", "b.toml", "b.toml"]


def test_a_problem_that_is_met_twice_is_said_once_and_where_it_was_met_first() -> None:
    main = 'include = ["gone.toml", "a.toml", "gone.toml"]\n' + MINIMAL
    assert [each.partition(": ")[0] for each in problems(main, a="[[deny]]")] == ["gone.toml", "a.toml", "a.toml"]


def test_attack_9_a_deny_row_has_a_name_as_a_refusal_tells_it_to_the_client() -> None:
    """Without one, the client would learn the path of a policy file."""
    (problem,) = problems(MINIMAL + '[[deny]]\nreason = "x"\nhosts = ["a.example"]')
    assert problem.startswith("main.toml: deny[0].name: is missing; ")


def test_a_policy_error_shows_each_problem_on_a_line() -> None:
    with pytest.raises(PolicyError) as error:
        loaded("")
    assert str(error.value).split("\n") == error.value.problems
    assert len(error.value.problems) == 5


def test_a_problem_is_one_line_whatever_is_in_the_file() -> None:
    (problem,) = problems(MINIMAL.replace('"gateway"', '"a\\nb: fine"'))
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "main.toml: is not UTF-8 text; save it as UTF-8 without a byte order mark"),
        ("schema = 1".encode("utf-16"), "main.toml: is not UTF-8 text; save it as UTF-8"),
        (b"schema = ", "main.toml: is not TOML: "),
        (b"a = 1\na = 2", "main.toml: is not TOML: "),
        (b"\xef\xbb\xbfschema = 1", "main.toml: begins with a byte order mark; save it as UTF-8 without one"),
        (b"a = " + b"[\n" * 100_000, "main.toml: is nested too deeply"),
    ],
)
def test_r12_what_is_no_toml_is_a_problem(content: bytes, said: str) -> None:
    (problem,) = problems(content)
    assert problem.startswith(said)


@pytest.mark.parametrize("digits", ["1" * 5000, "0x" + "f" * 5000], ids=["decimal", "hexadecimal"])
def test_r12_a_number_of_any_length_is_a_problem_and_no_crash(digits: str) -> None:
    (problem,) = problems(MINIMAL.replace("schema = 1", f"schema = {digits}"))
    assert problem.startswith("main.toml: ")


@pytest.mark.parametrize("end", ["\n", "\r\n", ""], ids=["lf", "crlf", "end-of-file"])
def test_attack_8_a_line_of_more_than_8192_octets_is_refused_before_it_is_parsed(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that a dotted key takes grows with the square of its length; a comment stands for it here."""
    assert MAX_LINE == 8192
    longest = MINIMAL + "#".ljust(MAX_LINE, ".") + end
    assert problems(longest) == []
    monkeypatch.setattr(tomllib, "loads", lambda _: pytest.fail("it is not parsed"))
    too_long = "main.toml: has a line of more than 8192 bytes; break it up"
    assert problems(MINIMAL + "a." * (MAX_LINE // 2) + "a = 1" + end) == [too_long]
    assert problems(longest.replace("#.", "#..")) == [too_long]
    assert problems("é" * (MAX_LINE // 2 + 1) + end) == [too_long]


def test_attack_8_lines_of_included_files_are_no_longer_either() -> None:
    assert problems(INCLUDING, rows="#" * (MAX_LINE + 1)) == [
        "rows.toml: has a line of more than 8192 bytes; break it up"
    ]


@given(st.binary(max_size=64))
def test_r12_no_bytes_crash_the_loader(content: bytes) -> None:
    assert problems(content)


# Includes


def test_included_rows_add_up_and_none_removes_another() -> None:
    rows = DENY.format("a") + ALLOW.format("[443]") + PERMIT.format(host="nas.local", network="10.0.0.0/8", more="")
    policy = loaded(INCLUDING + DENY.format("b"), rows=rows + '[[test]]\nurl = "https://b.example"\nexpect = "deny"')
    assert [row.name for row in policy.deny] == ["b", "a"]
    assert (len(policy.allow), len(policy.permit), len(policy.test)) == (1, 1, 1)


@pytest.mark.parametrize(
    "key", ["schema = 1", 'name = "x"', "[listen]", "[destinations]", "[[client]]", "[dns]", "[audit]", "[limits]"]
)
def test_an_included_file_holds_rows_only(key: str) -> None:
    (problem,) = problems(INCLUDING, rows=key)
    assert problem.startswith("rows.toml: ")
    assert "unknown key" in problem


def chain(length: int) -> dict[str, Any]:
    """Files f1.toml … each including the next."""
    return {f"f{n}": f'include = ["f{n + 1}.toml"]\n' for n in range(1, length)} | {f"f{length}": DENY.format("deep")}


def test_includes_go_four_deep_and_no_deeper() -> None:
    main = 'include = ["f1.toml"]\n' + MINIMAL
    assert [row.name for row in loaded(main, **chain(MAX_DEPTH)).deny] == ["deep"]
    assert MAX_DEPTH == 4
    assert problems(main, **chain(MAX_DEPTH + 1)) == ["f5.toml: is included more than 4 deep; remove an include"]


def test_a_file_that_includes_itself_is_an_error() -> None:
    assert problems(INCLUDING, rows='include = ["rows.toml"]') == ["rows.toml: includes itself; remove an include"]
    assert problems(INCLUDING, rows='include = ["other.toml"]', other='include = ["rows.toml"]') == [
        "rows.toml: includes itself; remove an include"
    ]
    assert problems(INCLUDING, rows='include = ["main.toml"]') == ["main.toml: includes itself; remove an include"]


def test_a_file_reached_twice_counts_once() -> None:
    main = 'include = ["a.toml", "b.toml", "a.toml"]\n' + MINIMAL
    policy = loaded(main, a=DENY.format("once"), b='include = ["a.toml"]\n' + DENY.format("b"))
    assert [row.name for row in policy.deny] == ["once", "b"]


def test_r12_a_file_that_cannot_be_read_is_an_error_and_not_an_empty_one() -> None:
    assert problems(INCLUDING) == ["rows.toml: cannot be read: No such file or directory"]
    with pytest.raises(PolicyError) as error:
        load("other.toml", lambda _name, _beside, secret=False: files()("main.toml", None, secret=secret), TODAY)
    assert error.value.problems == ["other.toml: cannot be read: No such file or directory"]


def test_r12_a_file_name_that_the_system_refuses_is_an_error() -> None:
    def read(name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:  # noqa: ARG001
        raise ValueError(name, beside)

    with pytest.raises(PolicyError, match=r"^main\.toml: cannot be read: bad file name$"):
        load("main.toml", read, TODAY)


@pytest.mark.parametrize("url", ["https://agent:TOKEN@example.com/rows.toml", "file:///rows.toml"])
def test_r7_a_url_is_no_file_to_include_and_is_not_repeated(url: str) -> None:
    """It may hold a credential. What else is included is read all the same."""
    said = "main.toml: include[0]: a URL is no file; write a path relative to this one"
    assert problems(f'include = ["{url}", "rows.toml"]\n' + MINIMAL, rows="") == [said]
    assert len(problems(f'include = ["{url}", "rows.toml"]\n' + MINIMAL, rows="zzz = 1")) == 2


def test_an_include_is_read_relative_to_the_real_path_of_its_file() -> None:
    asked: list[tuple[str, str | None]] = []

    def read(name: str, beside: str | None, *, secret: bool = False) -> tuple[str, bytes]:  # noqa: ARG001
        asked.append((name, beside))
        return f"/real/{name}", {"m": INCLUDING, "rows.toml": 'include = ["x"]', "x": ""}[name].encode()

    load("m", read, TODAY)
    assert asked == [("m", None), ("rows.toml", "/real/m"), ("x", "/real/rows.toml")]


def test_the_digest_covers_every_byte_of_every_file() -> None:
    digests = [
        loaded(INCLUDING, rows="").digest,
        loaded(INCLUDING, rows="#").digest,
        loaded(INCLUDING + "#", rows="").digest,
        loaded('include = ["rows.toml", "b.toml"]\n' + MINIMAL, rows="", b="").digest,
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(each) == 64 for each in digests)
    assert loaded(INCLUDING, rows="").digest == digests[0]

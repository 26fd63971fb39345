"""What is said of the host: whose files, whose daemon, which way out. Real deployments are in `end_to_end/test_audit`.

R2, R7 and R12; ATTACKS 6.5. Files are real ones, with real modes; what this kernel does not say, a fake says.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from proxyd.cli import host_findings as host
from proxyd.cli.files import today
from proxyd.cli.host_findings import agents_of, host_findings, read_whoever_may, run_as
from proxyd.net.access import Account
from proxyd.policy.finding import Severity
from proxyd.policy.load import load
from proxyd.policy.password import SALT_OCTETS, new_hash
from proxyd.serve.handover import Files
from tests.end_to_end.conftest import accounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxyd.policy.finding import Finding

__all__ = ["accounts"]

AGENT: Final = 40_002
BASE: Final = """\
schema = 1
name = "x"
[listen]
http = ["127.0.0.1:3128"]
{listen}
[destinations]
default = "allow"
[dns]
servers = ["127.0.0.1"]
{dns}
[[client]]
name = "agent"
{client}
{more}
"""
CREDENTIAL: Final = '[[client]]\nname = "b"\n[client.credential]\nuser = "b"\nfile = "secret"\n'
HASH: Final = str(new_hash("x", b"s" * SALT_OCTETS))
EVERYBODY: Final = "every account of this host"


class Host:
    """A host on which nothing runs, and where no traffic but proxyd's gets out; `folder` is where everybody gets to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str = "", mode: int = 0o644) -> Path:
        """A file of ours."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def found(
        self, more: str = "", *, client: str = f"users = [{AGENT}]", listen: str = "", dns: str = ""
    ) -> list[Finding]:
        """What is said where that is the policy."""
        if not (self.folder / "policy.toml").exists():
            self.write("policy.toml")
        path = self.folder / "policy.toml"
        path.write_text(BASE.format(more=more, client=client, listen=listen, dns=dns))
        files = Files()
        policy = load(str(path), files.remembering(read_whoever_may), today())
        return list(host_findings(policy, files))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """The host."""
    monkeypatch.setattr(host, "lets_out_by_account", lambda: True)
    monkeypatch.setattr(host, "uid_of_listener", lambda _: None)
    monkeypatch.setattr(host, "room_beside", lambda _: (1 << 40, 0.5))
    folder = Path(tempfile.mkdtemp(prefix="proxyd-host-"))
    folder.chmod(0o755)
    yield Host(folder)
    shutil.rmtree(folder)


def told(found: list[Finding]) -> list[tuple[str, str]]:
    return [(each.id, each.what) for each in found]


def test_of_a_sound_host_nothing_is_said(here: Host) -> None:
    here.write("log", mode=0o640)
    here.write("secret", HASH, 0o640)
    assert here.found(f'{CREDENTIAL}[audit]\nto = "{here.folder}/log"') == []


# Accounts


def test_r2_an_account_that_is_not_there_is_said_and_a_number_needs_no_name(here: Host) -> None:
    assert told(here.found(client='users = ["no-such-account", 40002]')) == [
        ("client.no_account", "client agent: users: this host has no account no-such-account")
    ]


@pytest.mark.parametrize("user", ["0", '"root"'])
def test_r2_an_agent_that_is_root_is_said_and_not_of_each_file_again(here: Host, user: str) -> None:
    assert told(here.found(client=f"users = [{user}]")) == [
        ("client.root", f"client agent: users: {user.strip(chr(34))}")
    ]


def test_agents_have_the_groups_that_the_host_says(here: Host) -> None:
    here.found(client='users = ["nobody", 40002]')
    policy = load(str(here.folder / "policy.toml"), read_whoever_may, today())
    assert list(agents_of(policy)) == [Account.of("nobody"), Account("40002", AGENT, frozenset())]


# Files


def policy_file(here: Host) -> Path:
    return here.write("policy.toml")


def credential(here: Host) -> Path:
    return here.write("secret", HASH, 0o600)


FILES: Final[dict[Callable[[Host], Path], str]] = {
    policy_file: "It is the policy. Who changes it decides what is refused.",
    credential: "It is a credential. Who changes it decides who is let in.",
}


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.__name__)
@pytest.mark.parametrize(("mode", "found"), [(0o002, "file.writable"), (0o020, "file.group_writable")])
def test_r12_a_file_that_others_may_write_is_found(
    here: Host, file: Callable[[Host], Path], mode: int, found: str
) -> None:
    credential(here)
    path = file(here)
    path.chmod(path.stat().st_mode | mode)
    os.chown(path, -1, AGENT + 1)
    [finding] = here.found(CREDENTIAL)
    assert (finding.id, finding.why) == (found, FILES[file])
    assert finding.what == f"{path}: {EVERYBODY if mode == 0o002 else 'a group'} may write it"
    assert f"{path}" in finding.mend


@pytest.mark.usefixtures("accounts")
def test_a_file_that_nobody_gets_to_is_no_danger_whatever_its_mode(here: Host) -> None:
    """Neither to everybody nor to a group."""
    here.folder.chmod(0o700)
    here.write("log", mode=0o666)
    policy_file(here).chmod(0o666)
    os.chown(here.folder / "policy.toml", -1, AGENT + 1)
    here.write("secret", HASH, 0o644)
    assert here.found(f'{CREDENTIAL}[audit]\nto = "{here.folder}/log"') == []


def test_r12_a_folder_on_the_way_is_named_and_what_it_leads_to(here: Host) -> None:
    here.folder.chmod(0o777)
    [finding] = here.found()
    assert finding.what == f"{here.folder}: {EVERYBODY} may write it"
    assert finding.why == "It is the policy, or leads there. Who changes it decides what is refused."
    assert finding.mend == f"let it be owned by root, and chmod go-w {here.folder}"


def test_a_command_to_mend_it_can_be_pasted(here: Host) -> None:
    name = here.folder / "a b"
    name.mkdir(0o755)
    here.folder = name
    policy_file(here).chmod(0o666)
    assert here.found()[0].mend.endswith(f"chmod go-w '{name}/policy.toml'")


@pytest.mark.parametrize(
    ("listen", "dns", "what"),
    [
        ('https = ["127.0.0.1:1"]\ncertificate = "{path}"\nprivate_key = "/dev/null"', "", "the certificate"),
        ("", 'hosts_file = "{path}"', "the hosts file"),
    ],
)
def test_what_else_decides_how_proxyd_behaves_is_looked_at(here: Host, listen: str, dns: str, what: str) -> None:
    path = here.write("other", mode=0o666)
    found = here.found(listen=listen.format(path=path), dns=dns.format(path=path))
    assert [each.why.partition(". ")[0] for each in found if each.what.startswith(str(path))] == [f"It is {what}"]


@pytest.mark.parametrize(
    ("listen", "more"),
    [
        ('https = ["127.0.0.1:1"]\ncertificate = "/etc/passwd"\nprivate_key = "{path}"', ""),
        ("", '[admin]\nlisten = "127.0.0.1:9128"\ntoken_file = "{path}"'),
    ],
)
def test_r7_a_secret_that_everybody_reads_is_found(here: Host, listen: str, more: str) -> None:
    path = here.write("secret", "s3cret", 0o644)
    [finding] = here.found(more.format(path=path), listen=listen.format(path=path))
    assert (finding.id, finding.what) == ("file.readable", f"{path}: {EVERYBODY} may read it")
    assert "s3cret" not in str(finding)


@pytest.mark.usefixtures("accounts")
def test_r7_a_secret_that_the_agent_reads_is_found(here: Host) -> None:
    """His own account above all: by his group."""
    os.chown(here.write("secret", HASH, 0o640), -1, 65534)
    assert told(here.found(CREDENTIAL, client='users = ["nobody"]')) == [
        ("file.readable", f"{here.folder}/secret: account nobody may read it")
    ]


def test_the_hosts_own_resolvers_count_where_the_policy_names_none(here: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = here.write("resolv.conf", mode=0o666)
    monkeypatch.setattr(host, "RESOLV_CONF", conf)
    assert here.found() == []
    monkeypatch.setattr(here, "found", lambda: here_without_servers(here))
    assert told(here.found()) == [("file.writable", f"{conf}: {EVERYBODY} may write it")]


def here_without_servers(here: Host) -> list[Finding]:
    path = here.folder / "policy.toml"
    path.write_text(path.read_text().replace('[dns]\nservers = ["127.0.0.1"]', ""))
    files = Files()
    return list(host_findings(load(str(path), files.remembering(read_whoever_may), today()), files))


def test_a_file_that_is_missing_is_said(here: Host) -> None:
    """Not twice for a secret; a link that leads in a circle is missing, too."""
    (here.folder / "circle").symlink_to("circle")
    listen = f'https = ["127.0.0.1:1"]\ncertificate = "{here.folder}/circle"\nprivate_key = "{here.folder}/none"'
    assert told(here.found(listen=listen)) == [
        ("file.missing", f"{here.folder}/circle: Too many levels of symbolic links"),
        ("file.missing", f"{here.folder}/none: No such file or directory"),
    ]


def test_what_may_not_be_looked_at_is_a_remark(here: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the log, too: never silence."""

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(host, "on_the_way_to", refuse)
    monkeypatch.setattr(host, "room_beside", refuse)
    found = here.found(f'[audit]\nto = "{here.folder}/log"')
    assert told(found) == [
        ("file.unseen", f"{here.folder}/policy.toml: cannot be looked at"),
        ("file.unseen", f"{here.folder}/log: cannot be looked at"),
    ]
    assert {each.severity for each in found} == {Severity.REMARK}


# The log


def test_r7_a_log_that_everybody_reads_is_found(here: Host) -> None:
    here.write("log", mode=0o644)
    assert told(here.found(f'[audit]\nto = "{here.folder}/log"')) == [
        ("log.readable", f"{here.folder}/log: {EVERYBODY} may read it")
    ]


def test_a_log_that_others_write_is_found_and_so_is_a_fifo(here: Host) -> None:
    os.mkfifo(here.folder / "log")
    (here.folder / "log").chmod(0o622)
    [finding] = here.found(f'[audit]\nto = "{here.folder}/log"')
    assert finding.why == "It is the audit log. Who changes it decides what is remembered."
    assert finding.mend.startswith("let it be owned by the account that runs proxyd, and chmod go-w")


def test_before_there_is_a_log_its_folder_counts(here: Host) -> None:
    logs = here.folder / "logs"
    logs.mkdir()
    logs.chmod(0o777)
    [finding] = here.found(f'[audit]\nto = "{logs}/audit.jsonl"')
    assert (finding.id, finding.why) == (
        "file.writable",
        "It is the folder of the audit log. Who changes it decides what is remembered.",
    )


@pytest.mark.parametrize(
    ("to", "found"),
    [
        ("/dev/null", ["log.not_kept"]),
        ("{folder}", ["log.no_file"]),
        ("{folder}/none/log", ["log.no_folder"]),
        ("{folder}/policy.toml/log", ["log.no_folder"]),
        ("/proc/self/fd/1", []),
    ],
)
def test_what_is_no_log_is_said(here: Host, to: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(host, "lets_out_by_account", lambda: True)
    monkeypatch.setattr(host, "uid_of_listener", lambda _: None)
    path = to.format(folder=here.folder)
    assert [each.id for each in here.found(f'[audit]\nto = "{path}"')] == found


@pytest.mark.parametrize(
    ("room", "found"),
    [
        ((63 << 20, 0.9), [("log.full", "{folder}: has room for 63 MiB")]),
        ((64 << 20, 0.049), [("log.nearly_full", "{folder}: 5% of the disk is free")]),
        ((64 << 20, 0.05), []),
    ],
)
def test_r12_a_disk_that_will_be_full_is_found(
    here: Host, monkeypatch: pytest.MonkeyPatch, room: tuple[int, float], found: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr(host, "room_beside", lambda _: room)
    expected = [(id_, what.format(folder=here.folder)) for id_, what in found]
    assert told(here.found(f'[audit]\nto = "{here.folder}/log"')) == expected


# The daemon


@pytest.mark.parametrize(
    ("uid", "found"),
    [
        (None, []),
        (AGENT + 1, []),
        (0, [("daemon.root", "proxyd runs as root")]),
        (AGENT, [("daemon.same_account", f"proxyd runs as account {AGENT}, as the agent does")]),
    ],
)
def test_r12_whose_account_it_runs_as_is_found(
    here: Host, monkeypatch: pytest.MonkeyPatch, uid: int | None, found: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr(host, "uid_of_listener", lambda _: uid)
    assert told(here.found()) == found


def test_a_daemon_that_is_root_is_not_the_agent_as_well() -> None:
    assert [each.id for each in run_as(0, [Account("root", 0, frozenset())])] == ["daemon.root"]


def test_without_proc_it_is_said_that_nothing_is_known(here: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_PROC_TCP", here.folder / "tcp")
    assert told(here.found()) == [("daemon.unseen", f"{here.folder}/tcp: cannot be read")]


# The way out


@pytest.mark.parametrize(("forced", "found"), [(True, []), (False, ["egress.unforced"]), (None, ["egress.unknown"])])
@pytest.mark.parametrize("client", [f"users = [{AGENT}]", 'networks = ["127.0.0.0/8"]', CREDENTIAL.partition("\n[")[2]])
def test_attack_6_5_whether_the_agent_is_forced_through_proxyd(
    here: Host, monkeypatch: pytest.MonkeyPatch, *, forced: bool | None, found: list[str], client: str
) -> None:
    here.write("secret", HASH, 0o600)
    monkeypatch.setattr(host, "lets_out_by_account", lambda: forced)
    said = here.found(client=f"[{client}" if client.startswith("client.") else client)
    assert [each.id for each in said] == found
    assert all((str(AGENT) if "users" in client else "the agent") in f"{each.what} {each.mend}" for each in said)


def test_attack_6_5_of_agents_elsewhere_it_cannot_be_known(here: Host) -> None:
    listen = 'https = ["10.0.0.1:1"]\ncertificate = "/etc/passwd"\nprivate_key = "/etc/passwd"'
    found = here.found(client='networks = ["10.0.0.0/24"]', listen=listen)
    assert "egress.elsewhere" in [each.id for each in found]

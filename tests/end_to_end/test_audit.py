"""`proxyd audit` on real deployments: a sound one, of which it says nothing, and trouble of every kind that it finds.

R1, R2, R7, R9, R10 and R12; ATTACKS 6.5, 7.9 and 9. Each piece of trouble is planted alone in a deployment that is
sound but for it, and what is found is that and nothing else. --deep is in `test_audit_deep.py`, --fix in
`test_audit_fix.py`.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final

import pytest

from tests.end_to_end.deployment import AGENTS_UID, HASH, OURS, Deployment, audited, command, sound
from tests.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable

ANOTHER: Final = 40_002
PERMIT: Final = '[[permit]]\nhost = "localhost"\nports = [{ports}]\nnetworks = ["127.0.0.1/32"]\nreason = "{reason}"\n'
EXPIRES: Final = "expires = 2099-01-01\n"

__all__ = ["sound"]

pytestmark = pytest.mark.usefixtures("accounts")


def test_of_a_sound_deployment_that_runs_nothing_is_said_not_even_a_remark(sound: Deployment) -> None:
    sound.start()
    status, ids, told = audited(sound, "--deep")
    assert (status, ids) == (0, []), told
    done = command("--policy", str(sound.policy), "--deep")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 critical, 0 warnings, 0 remarks\n", "")


# Trouble


def public_listener(at: Deployment) -> None:
    """R1, ATTACKS 7.9."""
    at.change("[listen]", "[listen]\ndangerously_public_listener = true")
    at.change(f"127.0.0.1:{at.port}", f"0.0.0.0:{at.port}")
    at.add('[[client]]\nname = "far"\nnetworks = ["10.0.0.0/24"]\n[client.limits]\ntunnels = 1')


def clients_without_identity(at: Deployment) -> None:
    at.change('users = ["nobody"]', 'networks = ["127.0.0.0/8"]')


def no_such_account(at: Deployment) -> None:
    at.change('"nobody"', '"nobody", "agent-that-nobody-made"')


def an_agent_that_is_root(at: Deployment) -> None:
    at.change('"nobody"', '"root"')


def a_permit_too_wide(at: Deployment) -> None:
    at.add(
        PERMIT.format(ports=8000, reason="x").replace("localhost", "x.example").replace("127.0.0.1/32", "10.0.0.0/24")
        + EXPIRES
    )


def a_permit_to_many_ports(at: Deployment) -> None:
    at.add(PERMIT.format(ports='"8000-8009"', reason="x") + EXPIRES)


def a_permit_to_a_gateway(at: Deployment) -> None:
    at.add(PERMIT.format(ports=18789, reason="x") + EXPIRES)


def a_permit_for_good(at: Deployment) -> None:
    at.add(PERMIT.format(ports=8000, reason="x"))


def a_permit_that_ended(at: Deployment) -> None:
    at.add(PERMIT.format(ports=8000, reason="x") + "expires = 2020-01-01\n")


def a_row_that_nobody_explained(at: Deployment) -> None:
    at.change("its model provider", "learnt from the audit log; say why")


def report_mode(at: Deployment) -> None:
    at.change('mode = "enforce"', 'mode = "report"')


def fake_addresses(at: Deployment) -> None:
    at.change("[dns]", '[dns]\ndangerously_allow_fake_ip = ["198.18.0.0/15"]')


def unaudited_service(at: Deployment) -> None:
    at.change("[audit]", "[audit]\ndangerously_prefer_availability = true")


def a_resolver_of_others(at: Deployment) -> None:
    at.change('"127.0.0.1:5353"', '"9.9.9.9"')


def a_hosts_file_that_everybody_writes(at: Deployment) -> None:
    hosts = at.folder / "hosts"
    hosts.touch()
    hosts.chmod(0o666)
    at.change("[dns]", f'[dns]\nhosts_file = "{hosts}"')


def a_policy_of_the_agents(at: Deployment) -> None:
    os.chown(at.policy, AGENTS_UID, 0)


def an_include_that_everybody_writes(at: Deployment) -> None:
    (at.folder / "denylist.toml").chmod(0o666)


def a_folder_that_everybody_writes(at: Deployment) -> None:
    at.folder.chmod(0o777)


def a_folder_of_a_group(at: Deployment) -> None:
    os.chown(at.folder, 0, ANOTHER)
    at.folder.chmod(0o775)


def a_link_that_everybody_may_replace(at: Deployment) -> None:
    """The file itself, and all above it, are root's; the name by which it is read is not."""
    elsewhere = at.folder / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    (elsewhere / "policy.toml").symlink_to(at.policy)
    at.policy = elsewhere / "policy.toml"


def a_link_of_the_agents(at: Deployment) -> None:
    """In a sticky folder, only the owner of a link may replace it."""
    elsewhere = at.folder / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o1777)
    (elsewhere / "policy.toml").symlink_to(at.policy)
    os.chown(elsewhere / "policy.toml", AGENTS_UID, AGENTS_UID, follow_symlinks=False)
    at.policy = elsewhere / "policy.toml"


def a_credential_that_everybody_reads(at: Deployment) -> None:
    """proxyd does not start with it, and it is told in the same way as all else."""
    (at.folder / "agent.scrypt").write_text(HASH)
    at.add(
        '[[client]]\nname = "other"\n[client.limits]\ntunnels = 1\n'
        '[client.credential]\nuser = "a"\nfile = "agent.scrypt"\n'
    )
    (at.folder / "agent.scrypt").chmod(0o644)


def a_log_that_everybody_reads(at: Deployment) -> None:
    at.log.parent.chmod(0o755)
    at.log.chmod(0o644)


def a_log_that_the_agent_writes(at: Deployment) -> None:
    at.log.parent.chmod(0o755)
    os.chown(at.log, OURS, AGENTS_UID)
    at.log.chmod(0o660)


def a_log_that_keeps_nothing(at: Deployment) -> None:
    at.change(str(at.log), "/dev/null")


def a_log_that_is_a_folder(at: Deployment) -> None:
    at.change(str(at.log), str(at.log.parent))


def a_log_without_its_folder(at: Deployment) -> None:
    at.change("/log/", "/no-such-folder/")


def nothing_that_forces_traffic(at: Deployment) -> None:
    """ATTACKS 6.5."""
    at.unlock()


TROUBLE: Final[dict[Callable[[Deployment], None], list[str]]] = {
    public_listener: ["listen.public", "client.by_address"],
    clients_without_identity: ["client.every_account"],
    no_such_account: ["client.no_account"],
    an_agent_that_is_root: ["client.root"],
    a_permit_too_wide: ["permit.wide"],
    a_permit_to_many_ports: ["permit.many_ports"],
    a_permit_to_a_gateway: ["permit.gateway"],
    a_permit_for_good: ["permit.no_end"],
    a_permit_that_ended: ["permit.expired"],
    a_row_that_nobody_explained: ["row.unexplained"],
    report_mode: ["destinations.report_mode"],
    fake_addresses: ["dns.dangerously_allow_fake_ip"],
    unaudited_service: ["audit.dangerously_prefer_availability"],
    a_resolver_of_others: ["dns.clear"],
    a_hosts_file_that_everybody_writes: ["file.writable", "dns.hosts_file"],
    a_policy_of_the_agents: ["file.writable"],
    an_include_that_everybody_writes: ["file.writable"],
    a_folder_that_everybody_writes: ["file.writable"],
    a_folder_of_a_group: ["file.group_writable"],
    a_link_that_everybody_may_replace: ["file.writable"],
    a_link_of_the_agents: ["file.writable"],
    a_credential_that_everybody_reads: ["file.readable"],
    a_log_that_everybody_reads: ["log.readable"],
    a_log_that_the_agent_writes: ["file.writable"],
    a_log_that_keeps_nothing: ["log.not_kept"],
    a_log_that_is_a_folder: ["log.no_file"],
    a_log_without_its_folder: ["log.no_folder"],
    nothing_that_forces_traffic: ["egress.unforced"],
}
_REMARKS: Final = {"permit.no_end", "dns.clear"}


@pytest.mark.parametrize("trouble", TROUBLE, ids=lambda trouble: trouble.__name__)
def test_each_trouble_is_found_and_nothing_that_is_not_there(
    sound: Deployment, trouble: Callable[[Deployment], None]
) -> None:
    trouble(sound)
    status, ids, told = audited(sound)
    assert list(dict.fromkeys(ids)) == TROUBLE[trouble], told
    assert status == (0 if set(ids) <= _REMARKS else 1)
    assert HASH not in str(told)


def test_r12_a_log_on_a_full_disk_is_found(sound: Deployment) -> None:
    """A small one, which nobody sees but this command."""
    disk = f'mount -t tmpfs -o size=1m,mode=0755 tmpfs {sound.log.parent} && exec "$@"'
    within = [tool("unshare"), "-m", "sh", "-c", disk, "sh"]
    done = command("--policy", str(sound.policy), "--json", within=within)
    assert [each["id"] for each in json.loads(done.stdout)["findings"]] == ["log.full"]


def test_who_is_not_root_is_told_what_he_cannot_see(sound: Deployment) -> None:
    """A remark, and neither silence nor an alarm."""
    sound.start()
    sound.log.parent.chmod(0o700)
    done = command("--policy", str(sound.policy), "--json", "--deep", account=AGENTS_UID)
    assert done.returncode == 0, done.stdout
    found = {each["id"]: each["what"] for each in json.loads(done.stdout)["findings"]}
    assert found == {
        "egress.unknown": "the firewall's rules cannot be read",
        "daemon.unasked": f"{sound.control}: is not for this account",
    }


def test_names_of_files_reach_a_terminal_as_text(sound: Deployment) -> None:
    """ATTACKS 9."""
    hostile = sound.folder / "\x1b[2J\u202epolicy\n.toml"
    sound.policy.rename(hostile)
    hostile.chmod(0o666)
    for arguments in (("--policy", str(hostile)), ("--policy", str(hostile), "--fix")):
        done = command(*arguments)
        assert "\\x1b[2J\\u202epolicy\\n.toml" in done.stdout
        assert not {"\x1b", "\u202e"} & set(done.stdout + done.stderr)

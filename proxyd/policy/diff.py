"""What is different between two policies, in the words of the file: which keys, which rows.

Nothing here says what that opens or closes; and no hash of a password is ever told.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from proxyd.policy.address import Endpoint
from proxyd.policy.client import Client
from proxyd.policy.dns import Server, Zone
from proxyd.policy.listen import Inherited, UnixPath
from proxyd.policy.password import PasswordHash
from proxyd.policy.rows import Expectation, PermitRow, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.policy.model import Policy


_SPELT = Endpoint | Server | UnixPath | Inherited
"""What is told as the file spells it; any other table may hold a secret."""


def changes(old: Policy, new: Policy) -> Iterator[str]:
    """Every key and every row that differs: `limits.tunnels: 10 -> 20`, `allow: +models`, `permit: -nas`."""
    yield from _changed_table(old, new, "")


def _changed_table(old: object, new: object, path: str) -> Iterator[str]:
    for each in fields(new):  # type: ignore[arg-type]  # a table of the policy, and old is the same one
        if "reader" in each.metadata:
            yield from _changed(getattr(old, each.name), getattr(new, each.name), f"{path}{each.name}")


def _changed(old: object, new: object, path: str) -> Iterator[str]:
    if _has_rows(old) or _has_rows(new):
        yield from _changed_rows(old, new, path)
    elif is_dataclass(new) and type(old) is type(new) and any("reader" in each.metadata for each in fields(new)):
        yield from _changed_table(old, new, f"{path}.")
    elif old != new:
        spelt = _as_mode if path.endswith("unix_mode") else _told
        yield f"{path}: {spelt(old)} -> {spelt(new)}"


def _changed_rows(old: Any, new: Any, path: str) -> Iterator[str]:  # noqa: ANN401 - tuples of rows
    """Rows by their label: added, gone, or the same with other contents."""
    before, after = ({_label(row): row for row in rows} for rows in (old, new))
    for label in [*before, *(label for label in after if label not in before)]:
        if label not in after:
            yield f"{path}: -{label}"
        elif label not in before:
            yield f"{path}: +{label}"
        elif isinstance(before[label], Client):
            yield from _changed_table(before[label], after[label], f"{path} {label}: ")
        elif replace(before[label], where="") != replace(after[label], where=""):
            yield f"{path}: {label} changed"
    if _has_clients(new) and [label for label in before if label in after] != [
        label for label in after if label in before
    ]:
        yield f"{path}: in another order"  # the first whose conditions hold is the client


def _has_rows(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Row | Client)


def _has_clients(value: tuple[object, ...]) -> bool:
    return bool(value) and isinstance(value[0], Client)


def _label(row: Row | Client) -> str:
    """A row by its name, or by what it is about: where it is written is no part of it."""
    if isinstance(row, Client) or row.name:
        return row.name
    if isinstance(row, Expectation):
        return f"{row.url} {row.expect}{row.client and f' for {row.client}'}"
    return row.host if isinstance(row, PermitRow) else ", ".join(getattr(row, "hosts", ()))


def _as_mode(value: object) -> str:
    return f"{value:04o}" if isinstance(value, int) else _told(value)


def _told(value: object) -> str:
    if value is None or value in ("", ()):
        return "nothing"
    if isinstance(value, Zone):
        return f"{value.suffix} by {_told(value.servers)}"
    if isinstance(value, PasswordHash) or (is_dataclass(value) and not isinstance(value, _SPELT)):
        return "…"
    if isinstance(value, range):
        return str(value.start) if len(value) == 1 else f"{value.start}-{value[-1]}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_told, value))}]"
    return str(value)

"""
Messages of WireProto, which is not WireGuard's wire protocol: control calls of a tunnel as records of names and values.

```python
request = wireproto.request([("cmd", "version")], [("cmd", "get"), ("format", "json")])
response = wireproto.parse(tunnel.wireproto(request))
for answer in response.answers:
    print(answer.command, answer.json())
```

docs/WIREPROTO.md of the sources has the commands, their fields and the bytes. The same messages go over the socket of
`wg-embed --wireproto-socket`.
"""

from __future__ import annotations

import json as _json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional, Union

from ._native import build_request as _build_request
from ._native import parse_message as _parse_message

Value = Union[bytes, str]
"""A value: bytes, or a text, which is sent as UTF-8."""

Pairs = tuple[tuple[str, bytes], ...]
"""Names and values, in their order. A name may be there several times."""

__all__ = ["CommandError", "Message", "Record", "parse", "request", "u16", "u32"]


class CommandError(Exception):
    """The answer of a command that has failed."""

    def __init__(self, name: str, code: int, errno: int, text: str) -> None:
        super().__init__(text)
        self.name = name
        """What it is, such as `invalid`."""
        self.code = code
        """The value of `wg_result_t`."""
        self.errno = errno


def u16(number: int) -> bytes:
    """Encodes a number in two bytes, as for `listen_port`. Raises `OverflowError` if it does not fit."""
    return number.to_bytes(2, "big")


def u32(number: int) -> bytes:
    """Encodes a number in four bytes, as for `fwmark`. Raises `OverflowError` if it does not fit."""
    return number.to_bytes(4, "big")


@dataclass(frozen=True)
class Record:
    """A command, or the answer to one."""

    pairs: Pairs
    copy: Optional[Pairs]
    """The command that this is the answer to; None in a request."""

    def get(self, name: str) -> Optional[bytes]:
        """The value of the first pair with this name."""
        return next((value for found, value in self.pairs if found == name), None)

    @property
    def command(self) -> Optional[str]:
        """The name of the command."""
        pairs = self.pairs if self.copy is None else self.copy
        return next((value.decode(errors="replace") for found, value in pairs if found == "cmd"), None)

    def result(self) -> bytes:
        """The result of an answer. Raises `CommandError` if it is an error."""
        error = self.get("error")
        if error is not None:
            said = _json.loads(error)
            raise CommandError(said["error"], said["code"], said["errno"], said["text"])
        result = self.get("result")
        if result is None:
            raise ValueError("not an answer")
        return result

    def json(self) -> Any:
        """The result, decoded from JSON. Raises as `result()` does."""
        return _json.loads(self.result())


@dataclass(frozen=True)
class Message:
    """A request or a response."""

    ok: Optional[bool]
    """Whether all commands have succeeded; None in a request."""
    has_checksum: bool
    groups: tuple[tuple[Record, ...], ...]

    @property
    def answers(self) -> tuple[Record, ...]:
        """The records of all groups."""
        return tuple(record for group in self.groups for record in group)


def request(
    *commands: Iterable[tuple[str, Value]], checksum: bool = True, little_endian: bool = False
) -> bytes:
    """
    A request of one group: a record for each command, whose first pair is `cmd`.

    Counts and sizes are big-endian unless `little_endian`. Raises `ValueError` for no commands, for a command without
    pairs, and above 16 MiB.
    """
    records = [
        [(name, value.encode() if isinstance(value, str) else bytes(value)) for name, value in command]
        for command in commands
    ]
    return _build_request([records], checksum, little_endian)


def parse(message: bytes, *, little_endian: bool = False) -> Message:
    """A message from its bytes. Raises `ValueError` that names what is wrong and at which byte."""
    ok, has_checksum, groups = _parse_message(message, little_endian)

    def record(pairs: list[tuple[str, bytes]], copy: Optional[list[tuple[str, bytes]]]) -> Record:
        return Record(tuple(pairs), None if copy is None else tuple(copy))

    return Message(ok, has_checksum, tuple(tuple(record(*one) for one in group) for group in groups))

"""A D-Bus client made of a socket and nothing else, as clients in Go are: what comes is looked at byte by byte."""

import socket
import struct
from pathlib import Path
from typing import Final

_LIMIT_SECS: Final = 20.0
_CALL: Final = 1
_REPLY: Final = 2
_SIGNAL: Final = 4
_PATH, _INTERFACE, _MEMBER, _ERROR, _SERIAL, _DESTINATION, _SENDER, _SIGNATURE = range(1, 9)

Status = tuple[int, float, str, str, int]


def _pad(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)


def _string(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode() + b"\0"


class RawClient:
    """One connection as root; `call` and `signal` give signature and body."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_LIMIT_SECS)
        self._socket.connect(str(path))
        self._serial = 0
        self._signals: list[tuple[str, bytes]] = []
        self._socket.sendall(b"\0AUTH EXTERNAL 30\r\n")
        while self._socket.recv(1) != b"\n":
            pass
        self._socket.sendall(b"BEGIN\r\n")
        self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")

    def close(self) -> None:
        self._socket.close()

    def match(self, rule: str) -> None:
        """From here on signals that fit are sent to this client."""
        self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", rule)

    def call(self, name: str, path: str, interface: str, member: str, text: str | None = None) -> tuple[str, bytes]:
        """A call with at most one string."""
        self._serial += 1
        body = b"" if text is None else _string(text)
        fields = b""
        values = {_PATH: ("o", path), _INTERFACE: ("s", interface), _MEMBER: ("s", member), _DESTINATION: ("s", name)}
        for code, (kind, value) in values.items():
            fields = _pad(fields, 8) + bytes([code, 1]) + kind.encode() + b"\0" + _string(value)
        if text is not None:
            fields = _pad(fields, 8) + bytes([_SIGNATURE, 1]) + b"g\0" + b"\1s\0"
        head = struct.pack("<BBBBIII", ord("l"), _CALL, 0, 1, len(body), self._serial, len(fields))
        self._socket.sendall(_pad(head + fields, 8) + body)
        while True:
            kind_of_message, header, body = self._receive()
            if kind_of_message == _REPLY and header.get(_SERIAL) == struct.pack("<I", self._serial):
                return header.get(_SIGNATURE, b"").decode(), body
            self._keep(kind_of_message, header, body)

    def signal(self) -> tuple[str, bytes]:
        """The next one."""
        while not self._signals:
            self._keep(*self._receive())
        return self._signals.pop(0)

    def _keep(self, kind: int, header: dict[int, bytes], body: bytes) -> None:
        if kind == _SIGNAL and header[_INTERFACE] != b"org.freedesktop.DBus":
            self._signals.append((header.get(_SIGNATURE, b"").decode(), body))

    def _receive(self) -> tuple[int, dict[int, bytes], bytes]:
        endian, kind, _, _, body_bytes, _, fields_bytes = struct.unpack("<BBBBIII", self._read(16))
        assert endian == ord("l")
        fields = self._read(fields_bytes + -fields_bytes % 8)[:fields_bytes]
        return kind, dict(_parse_fields(fields)), self._read(body_bytes)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            assert more, "the bus closed the connection"
            data += more
        return data


def _parse_fields(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        at += -at % 8
        code, kind = data[at], data[at + 2 : at + 3]
        at += 4
        if kind == b"u":
            value, at = data[at : at + 4], at + 4
        elif kind == b"g":
            value, at = data[at + 1 : at + 1 + data[at]], at + 2 + data[at]
        else:
            size = struct.unpack_from("<I", data, at)[0]
            value, at = data[at + 4 : at + 4 + size], at + 5 + size
        found.append((code, value))
    return found


def parse_status(signature: str, body: bytes) -> Status:
    """The five values of update_engine's status: int64, double, string, string, int64 and nothing after them."""
    assert signature == "xdssx"
    checked_at, progress = struct.unpack_from("<qd", body)
    texts, at = [], 16
    for _ in range(2):
        at += -at % 4
        size = struct.unpack_from("<I", body, at)[0]
        texts.append(body[at + 4 : at + 4 + size].decode())
        assert body[at + 4 + size] == 0
        at += 5 + size
    at += -at % 8
    assert len(body) == at + 8
    return checked_at, progress, texts[0], texts[1], struct.unpack_from("<q", body, at)[0]

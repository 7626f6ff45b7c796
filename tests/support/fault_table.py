"""What was injected into update_engine, the codes it was seen to report, and ours.

Each row injects one fault into one update. `upstream` is the code that update_engine 0.4.10 reported for it, `code` is
ours; where they differ, or something else does, `why` says why.
"""

import functools
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.support.commands import NEW
from tests.support.faulty_fleets import built_payload, same
from tests.support.payloads import RSA_B, make_payload
from tests.support.servers import Received, Script, head, send, whole
from update_agent.api.forms import ExitStatus
from update_agent.errors import Kind

CUT_AT: Final = 100_000
ONLY_THE_CHECK: Final = ("check", "3/0")
BEFORE_THE_END: Final = ("check", "13/1", "GET", "3/0")
AFTER_THE_PAYLOAD: Final = ("check", "13/1", "GET", "14/1", "3/0")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fault and everything that is to come of it.

    Attributes:
        fault: a name.
        check: answers the check.
        edit: changes the answer to the check.
        damage: makes what is served from the right payload.
        announces_damage: the answer has hash and size of what is served, as of a server that was taken over.
        payload: the right one, given the major version; none for the usual.
        serve: answers the request for the payload.
        postinst: script of the release.
        majors: versions of the format with which the row is run; update_engine knows 1 only.
        upstream: code of update_engine; None where it was not tried.
        code: ours; 0 where it is no fault for us.
        why: of the difference.
        kind: of the error.
        exit: status of `update-agent install`.
        heard: what the server hears, in order.
        attempts, url_failures: what is kept about the payload, as update_engine does.
        is_target_taken: slot B can boot no more.
        is_resumable: the next attempt goes on; update_engine begins anew after all of these.
    """

    fault: str
    upstream: int | None
    code: int
    why: str = ""
    kind: Kind | None
    exit: ExitStatus = ExitStatus.FAILED
    heard: tuple[str, ...] = BEFORE_THE_END
    attempts: int = 1
    url_failures: int = 0
    is_target_taken: bool = True
    is_resumable: bool = False
    check: Script | None = None
    edit: Callable[[bytes], bytes] = same
    damage: Callable[[bytes], bytes] = same
    announces_damage: bool = False
    payload: Callable[[str], bytes] = built_payload
    serve: Script | None = None
    postinst: str = ""
    majors: str = "1"


def put(at: int, data: bytes) -> Callable[[bytes], bytes]:
    """What overwrites bytes."""
    return lambda payload: payload[:at] + data + payload[at + len(data) :]


def flip_in_blob(payload: bytes) -> bytes:
    at = len(payload) // 2
    return put(at, bytes([payload[at] ^ 1]))(payload)


def overwrite_manifest(payload: bytes) -> bytes:
    major, size = struct.unpack_from(">QQ", payload, 4)
    return put(20 if major == 1 else 24, b"\xff" * size)(payload)


def replace_in_answer(pattern: bytes, by: bytes | Callable[[re.Match[bytes]], bytes]) -> Callable[[bytes], bytes]:
    """What edits every place that matches."""

    def edit(body: bytes) -> bytes:
        body, count = re.subn(pattern, by, body)
        assert count
        return body

    return edit


def of_another_key(major: str) -> bytes:
    return built_payload(major, keys=(RSA_B,))


def unsigned(major: str) -> bytes:
    return make_payload(NEW, major=int(major), keys=())


def end_early(connection: socket.socket, _: Received) -> None:
    """A body without a length, whose end nobody can tell from a right one."""
    connection.sendall(head() + built_payload("1")[:CUT_AT])


UNVERIFIED: Final = ExitStatus.UNVERIFIED
SEEN_AT_ONCE: Final = "the code is the same; the lengths stated by server and manifest do, and slot B is left alone"

OF_THE_CHECK: Final = functools.partial(Row, heard=ONLY_THE_CHECK, attempts=0, is_target_taken=False)

CHECKS: Final = (
    OF_THE_CHECK(fault="answer <x", upstream=31, code=31, kind=Kind.OMAHA_MALFORMED, check=whole(b"<x")),
    OF_THE_CHECK(fault="answer empty", upstream=30, code=30, kind=Kind.OMAHA_EMPTY, check=whole(b"")),
    OF_THE_CHECK(
        fault="answer error-internal",
        upstream=34,
        code=34,
        kind=Kind.OMAHA_REFUSED,
        edit=replace_in_answer(b'<updatecheck status="ok"', b'<updatecheck status="error-internal"'),
    ),
    OF_THE_CHECK(
        fault="answer without hash and postinstall",
        upstream=34,
        code=34,
        kind=Kind.OMAHA_INVALID,
        edit=replace_in_answer(b' hash_sha256="[^"]*"| event="postinstall"', b""),
    ),
    OF_THE_CHECK(
        fault="answer with two hashes",
        upstream=10,
        code=34,
        why="update_engine reads one of the two; an answer that contradicts itself is worth no download",
        kind=Kind.OMAHA_INVALID,
        edit=replace_in_answer(b' hash_sha256="[^"]*"', b' hash_sha256="' + b"0" * 64 + b'"'),
    ),
    OF_THE_CHECK(
        fault="answer 500",
        upstream=2500,
        code=2500,
        kind=Kind.HTTP_STATUS,
        check=send(head("500 Oh", Content_Length=0)),
    ),
)

PAYLOADS: Final = (
    Row(
        fault="answer without postinstall",
        upstream=34,
        code=0,
        why="the hash of the package does as well, and servers of other products leave the action out",
        kind=None,
        exit=ExitStatus.DONE,
        heard=("check", "13/1", "GET", "14/1", "3/1"),
        edit=replace_in_answer(b' event="postinstall"', b""),
    ),
    Row(
        fault="wrong hash",
        upstream=10,
        code=10,
        kind=Kind.PAYLOAD_HASH,
        exit=UNVERIFIED,
        edit=replace_in_answer(b'sha256="[^"]*"', b'sha256="' + b"0" * 64 + b'"'),
        majors="12",
    ),
    Row(
        fault="size +7",
        upstream=11,
        code=11,
        why=SEEN_AT_ONCE,
        kind=Kind.PAYLOAD_SIZE,
        exit=UNVERIFIED,
        is_target_taken=False,
        edit=replace_in_answer(b' size="([0-9]+)"', lambda match: b' size="%d"' % (int(match[1]) + 7)),
        majors="12",
    ),
    Row(
        fault="4 bytes trail",
        upstream=11,
        code=11,
        why=SEEN_AT_ONCE,
        kind=Kind.PAYLOAD_SIZE,
        exit=UNVERIFIED,
        is_target_taken=False,
        damage=lambda payload: payload + b"tail",
        majors="12",
    ),
    Row(
        fault="4 bytes trail, announced",
        upstream=11,
        code=11,
        why=SEEN_AT_ONCE,
        kind=Kind.PAYLOAD_SIZE,
        exit=UNVERIFIED,
        is_target_taken=False,
        damage=lambda payload: payload + b"tail",
        announces_damage=True,
        majors="12",
    ),
    Row(
        fault="body cut",
        upstream=11,
        code=11,
        why=SEEN_AT_ONCE,
        kind=Kind.PAYLOAD_SIZE,
        exit=UNVERIFIED,
        is_target_taken=False,
        damage=lambda payload: payload[:CUT_AT],
        majors="12",
    ),
    Row(
        fault="body cut, announced",
        upstream=11,
        code=11,
        why=SEEN_AT_ONCE,
        kind=Kind.PAYLOAD_SIZE,
        exit=UNVERIFIED,
        is_target_taken=False,
        damage=lambda payload: payload[:CUT_AT],
        announces_damage=True,
        majors="12",
    ),
    Row(
        fault="body cut, without length",
        upstream=11,
        code=9,
        why="the answer says how much there is, so that a broken connection is known for one and can go on",
        kind=Kind.TRANSFER,
        attempts=0,
        url_failures=1,
        serve=end_early,
    ),
    Row(
        fault="byte in a blob",
        upstream=29,
        code=29,
        kind=Kind.OPERATION_HASH,
        exit=UNVERIFIED,
        damage=flip_in_blob,
        majors="12",
    ),
    Row(
        fault="byte in a blob, announced",
        upstream=29,
        code=29,
        kind=Kind.OPERATION_HASH,
        exit=UNVERIFIED,
        damage=flip_in_blob,
        announces_damage=True,
        majors="12",
    ),
    Row(
        fault="magic",
        upstream=21,
        code=21,
        kind=Kind.PAYLOAD_MAGIC,
        is_target_taken=False,
        damage=put(0, b"X"),
        majors="12",
    ),
    Row(
        fault="version byte 9",
        upstream=18,
        code=21,
        why="update_engine looks for a key that belongs to the version and finds none; that is not what is wrong",
        kind=Kind.PAYLOAD_VERSION,
        is_target_taken=False,
        damage=put(11, b"\x09"),
        majors="12",
    ),
    Row(
        fault="manifest FF",
        upstream=23,
        code=23,
        kind=Kind.MANIFEST_MALFORMED,
        is_target_taken=False,
        damage=overwrite_manifest,
    ),
    Row(
        fault="manifest FF",
        upstream=None,
        code=18,
        why="a manifest that is signed itself is not parsed before its signature is verified",
        kind=Kind.SIGNATURE_INVALID,
        exit=UNVERIFIED,
        is_target_taken=False,
        damage=overwrite_manifest,
        majors="2",
    ),
    Row(
        fault="another key",
        upstream=18,
        code=18,
        kind=Kind.SIGNATURE_INVALID,
        exit=UNVERIFIED,
        payload=of_another_key,
    ),
    Row(
        fault="another key",
        upstream=None,
        code=18,
        why="the code is the same; the signature of the manifest comes first, and slot B is left alone",
        kind=Kind.SIGNATURE_INVALID,
        exit=UNVERIFIED,
        is_target_taken=False,
        payload=of_another_key,
        majors="2",
    ),
    Row(
        fault="unsigned",
        upstream=17,
        code=17,
        kind=Kind.SIGNATURE_MISSING,
        exit=UNVERIFIED,
        is_target_taken=False,
        payload=unsigned,
        majors="12",
    ),
    Row(
        fault="payload 404",
        upstream=9,
        code=9,
        kind=Kind.HTTP_STATUS,
        attempts=0,
        url_failures=1,
        is_target_taken=False,
        serve=send(head("404 No", Content_Length=0)),
        majors="12",
    ),
)

SCRIPTS: Final = (
    Row(
        fault="postinst exit 1",
        upstream=5,
        code=5,
        why="the code is the same; what was written is right, so the next attempt need not download it again",
        kind=Kind.POSTINSTALL_FAILED,
        heard=AFTER_THE_PAYLOAD,
        is_resumable=True,
        postinst="#!/bin/sh\necho 'not on this board'\nexit 1\n",
        majors="12",
    ),
    Row(
        fault="postinst exit 3",
        upstream=19,
        code=19,
        why="the code is the same; update_engine counts this as a success all the same and waits for the reboot",
        kind=Kind.POSTINSTALL_FIRMWARE_B,
        heard=AFTER_THE_PAYLOAD,
        is_resumable=True,
        postinst="#!/bin/sh\nexit 3\n",
    ),
)

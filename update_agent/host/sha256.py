"""SHA-256 whose running state can be saved and taken up again.

A version 1 payload is signed as a whole, so an install that goes on after a crash needs the hash of bytes that it no
longer has. Python's hashlib cannot give its state away; libcrypto, which Python itself stands on, can: `SHA256_CTX` is
a public struct of OpenSSL since 0.9.8. Where no libcrypto is found, the hash still works, only without a state.
"""

import ctypes
import functools
import hashlib
import struct
from typing import Final, Protocol

STATE_BYTES: Final = 104
"""Eight 32-bit words, a 64-bit count of bits, a 64-byte block: the form that update_engine keeps in its preferences."""

_BLOCK_BYTES: Final = 64
_LIBRARIES: Final = ("libcrypto.so.3", "libcrypto.so.4", "libcrypto.so.1.1", "libcrypto.so")


class _Context(ctypes.Structure):
    """SHA256_CTX of openssl/sha.h."""

    _fields_ = (
        ("words", ctypes.c_uint32 * 8),
        ("bits_low", ctypes.c_uint32),
        ("bits_high", ctypes.c_uint32),
        ("block", ctypes.c_ubyte * _BLOCK_BYTES),
        ("block_used", ctypes.c_uint),
        ("digest_bytes", ctypes.c_uint),
    )


class RunningHash(Protocol):
    """A SHA-256 in progress."""

    def update(self, data: bytes) -> None:
        """Take in more bytes."""

    def digest(self) -> bytes:
        """32 bytes: the hash of everything so far; more may follow."""

    def copy(self) -> "RunningHash":
        """An independent hash that goes on from here."""

    def state(self) -> bytes | None:
        """`STATE_BYTES` bytes to go on from later, or None where that is not possible."""


class _PlainHash:
    """hashlib's SHA-256: no state."""

    def __init__(self, inner: "hashlib._Hash | None" = None) -> None:
        self._inner = inner or hashlib.sha256()

    def update(self, data: bytes) -> None:
        self._inner.update(data)

    def digest(self) -> bytes:
        return self._inner.digest()

    def copy(self) -> RunningHash:
        return _PlainHash(self._inner.copy())

    def state(self) -> bytes | None:
        return None


class _CryptoHash:
    """libcrypto's SHA-256: releases the interpreter lock while it works."""

    def __init__(self, library: ctypes.CDLL, context: _Context | None = None) -> None:
        self._library = library
        self._context = _Context()
        if context is None:
            library.SHA256_Init(ctypes.byref(self._context))
        else:
            ctypes.pointer(self._context)[0] = context

    def update(self, data: bytes) -> None:
        self._library.SHA256_Update(ctypes.byref(self._context), data, len(data))

    def digest(self) -> bytes:
        answer = ctypes.create_string_buffer(32)
        final = _CryptoHash(self._library, self._context)
        self._library.SHA256_Final(answer, ctypes.byref(final._context))
        return answer.raw

    def copy(self) -> RunningHash:
        return _CryptoHash(self._library, self._context)

    def state(self) -> bytes:
        context = self._context
        bits = context.bits_high << 32 | context.bits_low
        used = bytes(context.block)[: context.block_used]
        return struct.pack("=8IQ64s", *context.words, bits, used)


@functools.cache
def _load_library() -> ctypes.CDLL | None:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            library.SHA256_Init.argtypes = (ctypes.POINTER(_Context),)
            library.SHA256_Update.argtypes = (ctypes.POINTER(_Context), ctypes.c_char_p, ctypes.c_size_t)
            library.SHA256_Final.argtypes = (ctypes.c_char_p, ctypes.POINTER(_Context))
        except (OSError, AttributeError):
            continue
        if _is_right(library):
            return library
    return None


def _is_right(library: ctypes.CDLL) -> bool:
    """Whether the struct is laid out as we believe: hash across a saved state and compare with hashlib."""
    text = bytes(range(256)) * 3
    first = _CryptoHash(library)
    first.update(text[:333])
    second = _from_state(library, first.state())
    second.update(text[333:])
    return second.digest() == hashlib.sha256(text).digest()


def _from_state(library: ctypes.CDLL, state: bytes) -> _CryptoHash:
    *words, bits, block = struct.unpack("=8IQ64s", state)
    context = _Context()
    context.words[:] = words
    context.bits_low, context.bits_high = bits & 0xFFFFFFFF, bits >> 32
    context.block[:] = block
    context.block_used, context.digest_bytes = bits // 8 % _BLOCK_BYTES, 32
    return _CryptoHash(library, context)


def new_hash() -> RunningHash:
    """A SHA-256 of nothing yet, with a state where the machine can."""
    library = _load_library()
    return _PlainHash() if library is None else _CryptoHash(library)


def resume_hash(state: bytes) -> RunningHash | None:
    """Go on from what `RunningHash.state` gave, or None if this machine cannot or the state is not one."""
    library = _load_library()
    if library is None or len(state) != STATE_BYTES:
        return None
    (bits,) = struct.unpack_from("=Q", state, 32)
    return None if bits % 8 else _from_state(library, state)

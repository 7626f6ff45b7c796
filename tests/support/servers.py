"""HTTP servers on loopback that misbehave on purpose, byte by byte; and a certificate authority of one's own.

A `ScriptedServer` runs one `Script` per connection, in order, the last one for ever. A script gets the connected
socket and the request, and does with the socket what it likes; it is closed afterwards.
"""

import contextlib
import datetime as dt
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_TIMEOUT_SECS: Final = 10.0


@dataclass(frozen=True)
class Received:
    """A request as the server saw it; names of headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def range_start(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(match[1]) if match else 0


Script = Callable[[socket.socket, Received], None]


def receive(connection: socket.socket) -> Received | None:
    """One request, or None when the peer went away."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    method, target, _ = lines[0].split(" ")
    return Received(method, target, headers, body)


@dataclass
class ScriptedServer:
    """See the module. `received` has every request in order."""

    scripts: tuple[Script, ...]
    tls: ssl.SSLContext | None = None
    received: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}/payload"

    def __enter__(self) -> "ScriptedServer":
        acceptor = threading.Thread(target=self._accept, daemon=True)
        acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        # Closing alone does not wake accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(_TIMEOUT_SECS)

    def wait(self, secs: float) -> None:
        """Let time pass, unless the test is over."""
        self._stopped.wait(secs)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(_TIMEOUT_SECS)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            stack.callback(connection.close)
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                stack.callback(connection.close)
            request = receive(connection)
            if request is not None:
                self.received.append(request)
                script = self.scripts[min(len(self.received), len(self.scripts)) - 1]
                script(connection, request)


def head(status: str = "200 OK", /, *, eol: str = "\r\n", **headers: Any) -> bytes:
    """Status line and headers; underscores in names become hyphens."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return (eol.join(lines) + eol * 2).encode("latin-1")


def send(*pieces: bytes) -> Script:
    """Send exactly this, then close."""
    return lambda connection, _: connection.sendall(b"".join(pieces))


def whole(content: bytes, **headers: Any) -> Script:
    """Everything with status 200, whatever was asked for."""
    return send(head(Content_Length=len(content), **headers), content)


def ranged(content: bytes, *, most: int | None = None, **headers: Any) -> Script:
    """A proper server; `most` cuts each body after so many bytes though more are announced."""

    def script(connection: socket.socket, request: Received) -> None:
        start = request.range_start
        if "range" not in request.headers:
            connection.sendall(head(Content_Length=len(content), **headers) + content[:most])
            return
        if start >= len(content):
            connection.sendall(head("416 No", Content_Range=f"bytes */{len(content)}", Content_Length=0, **headers))
            return
        rest = content[start:]
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        connection.sendall(head("206 Part", Content_Length=len(rest), Content_Range=place, **headers) + rest[:most])

    return script


def redirect(location: str, status: str = "302 Found") -> Script:
    return send(head(status, Location=location, Content_Length=0))


@contextlib.contextmanager
def serving(*scripts: Script, tls: ssl.SSLContext | None = None) -> Iterator[ScriptedServer]:
    """A running server."""
    with ScriptedServer(scripts, tls) as server:
        yield server


def forward(connection: socket.socket, request: Received) -> None:
    """A forward proxy's script: CONNECT makes a tunnel, everything else is sent on as it came."""
    authority = request.target if request.method == "CONNECT" else request.target.split("/")[2]
    host, _, port = authority.partition(":")
    with socket.create_connection((host, int(port)), _TIMEOUT_SECS) as upstream:
        if request.method == "CONNECT":
            connection.sendall(head("200 OK"))
        else:
            path = "/" + request.target.split("/", 3)[3]
            lines = [f"{request.method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in request.headers.items())]
            upstream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + request.body)
        back = threading.Thread(target=_pump, args=(upstream, connection), daemon=True)
        back.start()
        _pump(connection, upstream)
        back.join(_TIMEOUT_SECS)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Authority:
    """Files of a certificate authority, of a server at 127.0.0.1 and of a client, all signed by it."""

    ca_file: Path
    client_file: Path
    server_file: Path

    def server_context(self, *, wants_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_file)
        if wants_client:
            context.load_verify_locations(self.ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def make_authority(folder: Path) -> Authority:
    """Write the files into `folder`."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    ca_key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )

    def builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )

    ca = (
        builder(name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    authority = Authority(folder / "ca.pem", folder / "client.pem", folder / "server.pem")
    authority.ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    for path in (authority.server_file, authority.client_file):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = builder(subject, key).add_extension(address, critical=False).sign(ca_key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return authority

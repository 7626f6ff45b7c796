"""The compiled schema: up to date, loadable where it has to be, and in agreement with protoc."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from update_agent.formats import update_metadata_pb2 as pb2
from update_agent.formats.manifest import Manifest
from update_agent.formats.payload import Header, signatures_from_bytes

FOLDER = Path(pb2.__file__).parent
ROOT = FOLDER.parent.parent
DATA = ROOT / "tests" / "data"
PAYLOADS = ("usr-only.payload", "usr-and-kernel.payload")
DEBIAN_PYTHON = Path("/usr/bin/python3")

needs_protoc = pytest.mark.skipif(shutil.which("protoc") is None, reason="protoc is not installed")

LOAD_BY_PATH = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("update_metadata_pb2", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
message = module.Manifest.FromString(sys.stdin.buffer.read())
print(len(message.partition_operations), len(message.noop_operations), len(message.procedures), message.block_size)
"""

READ_AND_WRITE = """
import sys
sys.path.insert(0, sys.argv[1])
from update_agent.errors import FormatError
from update_agent.formats.manifest import Manifest
data = sys.stdin.buffer.read()
assert Manifest.from_bytes(data, 1).to_bytes() == data
for bad in (b"\\x00\\x00", b"\\x8a\\x80\\x80\\x80\\x10\\x00", data[:-1], b"\\x08" * 40):
    try:
        Manifest.from_bytes(bad, 1)
    except FormatError:
        pass
    else:
        raise SystemExit("accepted")
"""


def manifest_of(name: str) -> bytes:
    payload = (DATA / name).read_bytes()
    header = Header.from_bytes(payload)
    return payload[header.size_bytes : header.metadata_size]


def decode_raw(data: bytes) -> str:
    return subprocess.run(["protoc", "--decode_raw"], input=data, capture_output=True, check=True).stdout.decode()


def debian_protobuf() -> str | None:
    """Why Debian's protobuf cannot be tried, or None."""
    if not DEBIAN_PYTHON.exists():
        return f"{DEBIAN_PYTHON} is not there"
    script = "import google.protobuf, sys; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run([DEBIAN_PYTHON, "-c", script], capture_output=True, check=False).returncode:
        return f"{DEBIAN_PYTHON} is too old or has no protobuf"
    return None


@needs_protoc
def test_compiled_schema_is_what_protoc_makes_of_the_source(tmp_path: Path) -> None:
    version = subprocess.run(["protoc", "--version"], capture_output=True, check=True).stdout.decode()
    if " 3.21." not in version:
        pytest.skip(f"the committed files were made by protoc 3.21, this is {version.strip()}")
    source = (FOLDER / "update_metadata.proto").read_text()
    command = re.search(r"^//\s+(protoc .*)$", source, re.MULTILINE)
    assert command is not None
    shutil.copy(FOLDER / "update_metadata.proto", tmp_path)
    subprocess.run(command[1].split(), cwd=tmp_path, check=True)
    for name in ("update_metadata_pb2.py", "update_metadata_pb2.pyi"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text()


@pytest.mark.parametrize("python", [sys.executable, str(DEBIAN_PYTHON)])
def test_compiled_schema_loads_by_path_with_every_supported_protobuf(python: str) -> None:
    if python == str(DEBIAN_PYTHON) and (reason := debian_protobuf()) is not None:
        pytest.skip(reason)
    done = subprocess.run(
        [python, "-W", "error", "-c", LOAD_BY_PATH, FOLDER / "update_metadata_pb2.py"],
        input=manifest_of("usr-and-kernel.payload"),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split() == [b"5", b"2", b"1", b"4096"]


@pytest.mark.parametrize("name", PAYLOADS)
def test_manifest_is_read_and_written_with_the_oldest_protobuf(name: str) -> None:
    if (reason := debian_protobuf()) is not None:
        pytest.skip(reason)
    done = subprocess.run(
        [DEBIAN_PYTHON, "-B", "-W", "error", "-c", READ_AND_WRITE, ROOT],
        input=manifest_of(name),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@needs_protoc
@pytest.mark.parametrize("name", PAYLOADS)
def test_counts_agree_with_protoc(name: str) -> None:
    data = manifest_of(name)
    manifest = Manifest.from_bytes(data, 1)
    raw = decode_raw(data)
    assert len(re.findall(r"^1 \{", raw, re.MULTILINE)) == len(manifest.parts[0].operations)
    assert len(re.findall(r"^2 \{", raw, re.MULTILINE)) == len(manifest.noop_operations)
    assert len(re.findall(r"^10 \{", raw, re.MULTILINE)) == len(manifest.parts) - 1
    assert re.findall(r"^4: (\d+)", raw, re.MULTILINE) == [str(manifest.signatures_offset)]
    assert re.findall(r"^5: (\d+)", raw, re.MULTILINE) == [str(manifest.signatures_size)]


@needs_protoc
@pytest.mark.parametrize("name", PAYLOADS)
def test_signatures_agree_with_protoc(name: str) -> None:
    payload = (DATA / name).read_bytes()
    header = Header.from_bytes(payload)
    offset = Manifest.from_bytes(manifest_of(name), 1).signatures_offset
    assert offset is not None
    signatures = signatures_from_bytes(payload[header.data_start + offset :])
    raw = decode_raw(payload[header.data_start + offset :])
    assert re.findall(r"^  1: (\d+)", raw, re.MULTILINE) == [str(signature.version) for signature in signatures]

"""JSON is an interface: what each verb says is kept in tests/data/golden, and changes there are looked at.

`UPDATE_GOLDEN=1 pytest tests/integration/test_cli_json.py` writes the files anew.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import NEW, Bench, Result, make_bench, run_cli
from tests.support.payloads import DATA, RSA_A, RSA_A_PUBLIC, make_payload
from tests.support.servers import serving, whole
from update_agent.cli.parser import build_parser
from update_agent.formats.omaha_server import AppAnswer, AppStatus, Offer, build_response
from update_agent.formats.operations import OperationType

GOLDEN = DATA / "golden"
# Without compression, so that no other version of zstd makes other bytes.
PAYLOAD = make_payload(NEW, types=[OperationType.REPLACE])
WITH_KERNEL = make_payload(NEW, NEW[:5000], types=[OperationType.REPLACE])
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

# About the node and not about a disk: what they say is kept beside their tests.
NODE_VERBS = {
    "is-pending", "watch", "cancel", "reset", "reload", "log", "channel", "config-cat", "config-import-cloud-config",
    "completion",
}  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = make_bench(tmp_path)
    bench.put("new.payload", PAYLOAD)
    bench.put("kernel.payload", WITH_KERNEL)
    return bench


def installed(bench: Bench) -> Bench:
    assert bench.install("--payload", bench.folder / "new.payload").status == 0
    return bench


def answer(*, offers: bool) -> bytes:
    offer = Offer(
        version="2.0.0",
        codebase="http://127.0.0.1:1/",
        name="new.payload",
        size_bytes=len(PAYLOAD),
        sha1_base64=base64.b64encode(hashlib.sha1(PAYLOAD).digest()).decode(),
        sha256_base64=base64.b64encode(hashlib.sha256(PAYLOAD).digest()).decode(),
    )
    app = AppAnswer(
        app_id="{e96281a6-d1af-4bde-9a0a-97b76e56dc57}",
        status=AppStatus.OK,
        has_ping=True,
        has_update_check=True,
        offer=offer if offers else None,
        event_count=1,
    )
    return build_response([app])


def ask(bench: Bench, verb: str, *, offers: bool) -> Result:
    with serving(whole(answer(offers=offers))) as server:
        return bench.run(
            verb, "--server", server.url, "--json", *(["--public-key", str(RSA_A_PUBLIC)] * (verb == "install"))
        )


def build(bench: Bench, *arguments: str | Path) -> Result:
    usr = bench.put("usr.img", NEW)
    output = bench.folder / "built.payload"
    return run_cli(
        "payload", "build", "--usr", usr, "--version", "2.0.0", "--compression", "none", "--output", output, "--json",
        *arguments,
    )  # fmt: skip


def attach(bench: Bench) -> Result:
    assert build(bench, "--signature-size", "256").status == 0
    signature = bench.put("signature", bytes(256))
    built, output = bench.folder / "built.payload", bench.folder / "signed.payload"
    return run_cli(
        "payload", "attach-signature", built, "--metadata-signature", signature, "--payload-signature", signature,
        "--output", output, "--json",
    )  # fmt: skip


def payload(bench: Bench, action: str, *arguments: str | Path) -> Result:
    return run_cli("payload", action, bench.folder / "kernel.payload", "--json", *arguments)


SCENES: dict[str, Callable[[Bench], Result]] = {
    "status": lambda bench: bench.run("--json"),
    "status-reboot-pending": lambda bench: installed(bench).run("status", "--json"),
    "slots": lambda bench: bench.run("slots", "--json"),
    "check": lambda bench: ask(bench, "check", offers=True),
    "check-no-update": lambda bench: ask(bench, "check", offers=False),
    "install": lambda bench: bench.install("--payload", bench.folder / "new.payload", "--json"),
    "install-no-update": lambda bench: ask(bench, "install", offers=False),
    "activate": lambda bench: bench.run("activate", "B", "--json"),
    "mark-good": lambda bench: installed(bench).run("mark-good", "B", "--json"),
    "mark-bad": lambda bench: installed(bench).run("mark-bad", "B", "--json"),
    "rollback": lambda bench: (bench.run("mark-good", "B"), bench.run("rollback", "--json"))[1],
    "next-boot": lambda bench: bench.run("next-boot", "--json"),
    "repair": lambda bench: bench.run("repair", "--json"),
    "payload-build": lambda bench: build(bench, "--key", RSA_A),
    "payload-inspect": lambda bench: payload(bench, "inspect"),
    "payload-verify": lambda bench: payload(bench, "verify", "--public-key", RSA_A_PUBLIC),
    "payload-extract": lambda bench: payload(
        bench, "extract", "--public-key", RSA_A_PUBLIC, "--usr", bench.folder / "usr", "--kernel", bench.folder / "k"
    ),
    "payload-digest": lambda bench: payload(bench, "digest"),
    "payload-attach-signature": attach,
    "error": lambda bench: payload(bench, "verify"),
}


@pytest.mark.parametrize("scene", SCENES)
def test_json_of_a_verb_is_as_kept(bench: Bench, scene: str) -> None:
    result = SCENES[scene](bench)
    assert result.status == (6 if scene == "error" else 0), result.err
    found = TIME.sub("TIME", json.dumps(result.json, indent=2)).replace(str(bench.folder), "FOLDER") + "\n"
    golden = GOLDEN / f"{scene}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text()
    assert result.json["schema"] == 1


def test_every_verb_has_a_golden_file() -> None:
    verbs = set()
    for action in build_parser()._actions:
        for name, parser in (action.choices or {}).items() if isinstance(action.choices, dict) else ():
            below = [each.choices for each in parser._actions if isinstance(each.choices, dict)]
            verbs |= {f"{name}-{each}" for choices in below for each in choices} or {name}
    assert verbs - NODE_VERBS == {scene for scene in SCENES if scene in verbs}
    assert verbs

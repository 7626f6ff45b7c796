"""Every verb by hand: what it answers, what it changes, and how it ends."""

import io
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import NEW, OLD, Bench, make_bench, run_cli
from tests.support.images import HAS_SGDISK, NO_SGDISK, ab_parts, boot_attributes, make_sgdisk_image
from tests.support.payloads import RSA_A, RSA_A_PUBLIC, RSA_B_PUBLIC, make_payload
from update_agent import __version__
from update_agent.cli.console import Color, Console, Style, format_bytes
from update_agent.cli.parser import build_parser
from update_agent.domain.progress import Phase, Progress
from update_agent.errors import Kind, RefusedError

SECTORS = len(OLD) // 512
PAYLOAD = make_payload(NEW)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


@pytest.fixture
def installed(bench: Bench) -> Bench:
    """Release 2.0.0 waits in slot B for its first boot."""
    assert bench.install("--payload", bench.put("new.payload", PAYLOAD)).status == 0
    return bench


def both_good(bench: Bench) -> Bench:
    """B runs, A is as good."""
    assert bench.run("mark-good", "B").status == 0
    return bench


# status and slots


def test_status_is_what_is_done_without_a_verb(bench: Bench) -> None:
    assert bench.run() == bench.run("status")


def test_status_answers_in_its_first_line(bench: Bench) -> None:
    result = bench.run("status", "--json")
    assert (result.status, result.err) == (0, "")
    text = bench.run().out.splitlines()
    assert text[0] == "Running unknown version from slot A, no update pending"
    assert text[1].split() == ["SLOT", "VERSION", "PRIORITY", "TRIES", "SUCCESSFUL", "STATE"]
    assert text[2].split() == ["●", "A", "-", "1", "0", "yes", "booted"]
    assert text[3].split() == ["✗", "B", "-", "0", "0", "no", "unbootable"]


def test_status_only_looks(bench: Bench) -> None:
    bench.image.chmod(0o444)
    before = bench.image.read_bytes()
    assert bench.run("status").status == bench.run("slots").status == bench.run("next-boot").status == 0
    assert bench.image.read_bytes() == before
    assert list(bench.folder.iterdir()) == [bench.image]


def test_status_after_an_install_shows_what_waits(installed: Bench) -> None:
    lines = installed.run().out.splitlines()
    assert lines[0] == "Update installed, reboot pending: unknown version → 2.0.0"
    assert lines[3].split() == ["↻", "B", "2.0.0", "2", "1", "no", "next", "boot"]


def test_status_of_a_rollback_that_waits_does_not_call_it_an_update(bench: Bench) -> None:
    both_good(bench)
    assert bench.run("--booted", "A").out.startswith("Rolled back, reboot pending: ")
    assert bench.run().out.startswith("Running unknown version from slot B, no update pending\n")


def test_status_of_a_disk_from_which_nothing_boots_says_so_first(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, ab_parts(a=0, sectors=SECTORS))
    assert bench.run().out.splitlines()[0] == "No slot boots: the boot loader will stop with an error"


def test_status_of_a_running_slot_that_nobody_knows(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, ab_parts(a=boot_attributes(priority=1, tries=1), sectors=SECTORS))
    assert bench.run().out.startswith("Running unknown version from slot A")


@pytest.mark.parametrize(("verb", "offset"), [("status", 512), ("status", -512)])
def test_status_of_a_damaged_table_warns_and_says_what_mends_it(bench: Bench, verb: str, offset: int) -> None:
    damage(bench, offset)
    result = bench.run(verb)
    assert result.status == 0
    assert result.out.startswith("Running")
    assert result.err.startswith("update-agent: warning: ")
    assert "repair" in result.err


def test_slots_shows_partitions_and_content(installed: Bench) -> None:
    out = installed.run("slots").out
    assert "slot A: partition 3, 7130c94a-213a-4e5a-8e26-6cce9662f132, 512.0 KiB\n" in out
    assert re.search(r"\n  installed \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, SHA-256 [0-9a-f]{64}\n$", out)


# activate, mark-good, mark-bad, rollback


def test_activate_gives_one_try_and_falls_back_when_it_is_used_up(bench: Bench) -> None:
    assert bench.run("activate", "b").status == 0
    assert (bench.boots(), bench.flags("B")) == ("B", (2, 1, 0))
    bench.assert_sound()
    assert [bench.run("next-boot", "--consume").out for _ in range(3)] == ["B\n", "A\n", "A\n"]
    bench.assert_sound()


def test_activate_without_a_slot_takes_the_one_that_does_not_run(bench: Bench) -> None:
    bench.run("activate")
    assert bench.boots() == "B"


def test_activate_of_the_running_slot_gives_an_update_up(installed: Bench) -> None:
    assert installed.run("activate", "A").status == 0
    assert installed.boots() == "A"
    installed.assert_sound()


def test_mark_good_without_a_slot_takes_the_one_that_runs(bench: Bench) -> None:
    assert bench.run("mark-good").status == 0
    assert (bench.flags("A"), bench.flags("B")) == ((1, 0, 1), (0, 0, 0))


def test_mark_good_of_an_update_makes_it_the_running_one(installed: Bench) -> None:
    result = installed.run("mark-good", "B")
    assert result.out.startswith("Running 2.0.0 from slot B, no update pending\n")
    assert installed.flags("B") == (2, 0, 1)
    installed.assert_sound()


def test_mark_bad_never_boots_again(installed: Bench) -> None:
    assert installed.run("mark-bad").status == 0
    assert installed.flags("B") == (0, 0, 0)
    installed.assert_old_release_boots()


def test_mark_bad_of_the_last_slot_is_refused(bench: Bench) -> None:
    result = bench.run("mark-bad", "A", "--json")
    assert (result.status, result.kind) == (5, Kind.NOTHING_BOOTABLE)
    assert "hint: " in result.err
    bench.assert_old_release_boots()


def test_rollback_goes_back_to_the_other_good_slot(bench: Bench) -> None:
    both_good(bench)
    assert bench.boots() == "B"
    assert bench.run("rollback").status == 0
    bench.assert_old_release_boots()


def test_rollback_to_an_update_that_never_booted_is_refused(installed: Bench) -> None:
    result = installed.run("rollback", "--json")
    assert (result.status, result.kind) == (5, Kind.SLOT_UNPROVEN)
    assert result.err.endswith("hint: to give the update up: update-agent activate A\n")
    assert installed.boots() == "B"


def test_rollback_to_an_empty_slot_is_refused(bench: Bench) -> None:
    result = bench.run("rollback", "--json")
    assert (result.status, result.kind) == (5, Kind.NOTHING_BOOTABLE)
    bench.assert_old_release_boots()


@pytest.mark.parametrize("verb", ["activate", "mark-bad", "rollback"])
def test_verb_that_needs_a_running_slot_says_to_name_one(tmp_path: Path, verb: str) -> None:
    bench = make_bench(tmp_path, ab_parts(a=0, sectors=SECTORS))
    result = bench.run(verb)
    assert (result.status, result.out) == (2, "")
    assert result.err.endswith("hint: name the slot: A or B\n")


@pytest.fixture
def half(bench: Bench) -> Bench:
    """An install ended before its time: slot B is incomplete."""
    payload = make_payload(NEW, mutate_blobs=lambda blobs: blobs.__setitem__(-1, blobs[-1] ^ 1))
    assert bench.install("--payload", bench.put("broken.payload", payload)).status == 6
    return bench


@pytest.mark.parametrize("verb", ["activate", "mark-good", "rollback"])
def test_half_a_release_is_not_made_bootable(half: Bench, verb: str) -> None:
    result = half.run(verb, *(["B"] * (verb != "rollback")), "--json")
    assert (result.status, result.kind) == (5, Kind.SLOT_INCOMPLETE)
    half.assert_old_release_boots()


@pytest.mark.parametrize("verb", ["activate", "mark-good"])
def test_half_a_release_is_made_bootable_by_force(half: Bench, verb: str) -> None:
    assert half.run(verb, "B", "--force").status == 0
    assert half.boots() == "B"


def test_status_of_half_a_release_says_so_first(half: Bench) -> None:
    lines = half.run().out.splitlines()
    assert lines[0].startswith("Install unfinished")
    assert lines[0].endswith("; running unknown version from slot A")
    assert lines[3].split() == ["…", "B", "2.0.0", "0", "0", "no", "incomplete"]


# next-boot and repair


def test_next_boot_is_one_word(bench: Bench) -> None:
    assert (bench.run("next-boot").out, bench.run("next-boot", "--json").json["next_boot"]) == ("A\n", "A")


@pytest.mark.parametrize("consume", [[], ["--consume"]])
def test_next_boot_of_nothing_is_no(tmp_path: Path, consume: list[str]) -> None:
    bench = make_bench(tmp_path, ab_parts(a=0, sectors=SECTORS))
    result = bench.run("next-boot", *consume)
    assert (result.status, result.out, result.err) == (3, "none\n", "")
    result = bench.run("next-boot", *consume, "--json")
    assert (result.status, result.json) == (3, {"schema": 1, "next_boot": None})


@pytest.mark.parametrize("offset", [512, -512])
def test_repair_mends_either_copy(bench: Bench, offset: int) -> None:
    whole = bench.image.read_bytes()
    damage(bench, offset)
    assert bench.run("repair").out == "partition table repaired\n"
    assert bench.image.read_bytes() == whole
    bench.assert_sound()
    assert bench.run("repair").out == "both copies of the partition table are good\n"


def test_repair_of_nothing_at_all_fails(bench: Bench) -> None:
    damage(bench, 512)
    damage(bench, -512)
    result = bench.run("repair", "--json")
    assert (result.status, result.kind) == (1, Kind.GPT_INVALID)


def damage(bench: Bench, offset: int) -> None:
    with bench.image.open("r+b") as file:
        file.seek(offset, 2 if offset < 0 else 0)
        file.write(bytes(8))


# install


def test_install_says_what_it_did_and_keeps_the_old_release(bench: Bench) -> None:
    result = bench.install("--payload", bench.put("new.payload", PAYLOAD))
    assert result.out == (
        "Installed 2.0.0 in slot B, it boots next (running: unknown version, signed by rsa-a.pub.pem)\n"
    )
    assert bench.content("B")[: len(NEW)] == NEW
    assert bench.content("A") == OLD
    assert (bench.boots(), bench.flags("B")) == ("B", (2, 1, 0))
    bench.assert_sound()


def test_install_of_what_waits_for_its_boot_says_so(bench: Bench) -> None:
    payload = bench.put("new.payload", make_payload(NEW))
    bench.install("--payload", payload)
    result = bench.install("--payload", payload)
    assert (result.status, result.err) == (0, "")
    assert result.out == "2.0.0 is in slot B already, it boots next (running: unknown version)\n"
    assert '"result": "already-installed"' in bench.install("--payload", payload, "--json").out


def test_install_tells_progress_on_stderr_line_by_line(bench: Bench) -> None:
    lines = bench.install("--payload", bench.put("new.payload", PAYLOAD)).err.splitlines()
    assert re.fullmatch(r"downloading: 100 % of \d+\.\d KiB", lines[-3]), lines
    assert lines[-2:] == ["verifying: 100 % of 256.0 KiB", "finalizing"]
    assert len(lines) == len(set(lines)) <= 2 * 11 + 1


@pytest.mark.skipif(not HAS_SGDISK, reason=NO_SGDISK)
def test_install_on_a_disk_made_by_sgdisk(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    make_sgdisk_image(bench.image)
    assert bench.install("--payload", bench.put("new.payload", PAYLOAD)).status == 0
    assert bench.boots() == "B"
    bench.assert_sound()


def test_install_kernel_goes_to_the_boot_folder(bench: Bench) -> None:
    payload = bench.put("k.payload", make_payload(NEW, OLD[:5000]))
    boot = bench.folder / "boot"
    boot.mkdir()
    assert bench.install("--payload", payload, "--boot-dir", boot).status == 0
    assert (boot / "vmlinuz-b").read_bytes() == OLD[:5000]
    assert sorted(boot.iterdir()) == [boot / "vmlinuz-b"]


def test_install_kernel_without_a_place_is_refused_before_anything_changes(bench: Bench) -> None:
    before = bench.image.read_bytes()
    payload = bench.put("k.payload", make_payload(NEW, OLD[:5000]))
    result = bench.install("--payload", payload, "--json")
    assert (result.status, result.kind) == (2, Kind.KERNEL_TARGET_MISSING)
    assert bench.image.read_bytes() == before
    assert bench.install("--payload", payload, "--skip-kernel").status == 0


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--running-version", "2.0.0"], 5),
        (["--running-version", "2.0.0", "--allow-same-version"], 0),
        (["--running-version", "3"], 5),
        (["--running-version", "3", "--allow-downgrade"], 0),
        (["--running-version", "1"], 0),
    ],
)
def test_install_follows_the_version_policy(bench: Bench, options: list[str], status: int) -> None:
    assert bench.install("--payload", bench.put("new.payload", PAYLOAD), *options).status == status
    assert bench.boots() == ("A" if status else "B")


def test_install_compares_with_the_recorded_release(installed: Bench) -> None:
    installed.run("mark-good", "B")
    result = installed.install("--payload", installed.folder / "new.payload", "--json")
    assert (result.status, result.kind) == (5, Kind.SAME_VERSION)
    assert installed.boots() == "B"


def test_install_of_the_target_that_runs_is_refused(bench: Bench) -> None:
    result = bench.install("--payload", bench.put("new.payload", PAYLOAD), "--target", "a", "--json")
    assert (result.status, result.kind) == (5, Kind.TARGET_BOOTED)
    bench.assert_old_release_boots()


def test_install_to_a_blank_disk_with_a_named_target(tmp_path: Path) -> None:
    bench = make_bench(tmp_path, ab_parts(a=0, sectors=SECTORS))
    assert bench.install("--payload", bench.put("new.payload", PAYLOAD), "--target", "A").status == 0
    assert bench.boots() == "A"


def test_install_through_a_symbolic_link_shares_the_state(installed: Bench) -> None:
    link = installed.folder / "link.img"
    link.symlink_to(installed.image)
    assert run_cli("--image", link, "status").out == installed.run("status").out


# payload


def test_payload_build_verify_extract_install(bench: Bench) -> None:
    usr, kernel = bench.put("usr.img", NEW), bench.put("vmlinuz", OLD[:5000])
    built, out = bench.folder / "built", bench.folder / "out"
    result = run_cli(
        "payload", "build", "--usr", usr, "--kernel", kernel, "--version", "3.1.0", "--key", RSA_A, "--level", "1",
        "--output", built,
    )  # fmt: skip
    assert result.status == 0, result.err
    assert re.fullmatch(rf"{re.escape(str(built))}: \d+\.\d KiB, \d+ [A-Z_]+(, \d+ [A-Z_]+)*\n", result.out)
    result = run_cli("payload", "verify", built, "--public-key", RSA_A_PUBLIC)
    assert result.out == f"{built}: good, signed by rsa-a.pub.pem\n"
    result = run_cli("payload", "extract", built, "--public-key", RSA_A_PUBLIC, "--usr", out)
    assert result.out == f"{built}: good, signed by rsa-a.pub.pem, usr in {out}\n"
    assert out.read_bytes() == NEW
    assert bench.install("--payload", built, "--skip-kernel", "--json").json["version"] == "3.1.0"


def test_payload_inspect_is_read_without_a_key(bench: Bench) -> None:
    out = run_cli("payload", "inspect", bench.put("k.payload", make_payload(NEW, OLD[:5000]))).out
    assert "format 2, release 2.0.0" in out
    assert "signatures not verified" in out
    assert "\n  kernel (full): 4.9 KiB, SHA-256 " in out


def test_payload_inspect_of_version_1_says_so(bench: Bench) -> None:
    out = run_cli("payload", "inspect", bench.put("p", make_payload(NEW, major=1))).out
    assert "format 1, " in out


def test_payload_digest_is_what_sha256_says(bench: Bench) -> None:
    built = bench.folder / "built"
    run_cli(
        "payload", "build", "--usr", bench.put("usr.img", NEW), "--version", "3", "--signature-size", "256",
        "--output", built,
    )  # fmt: skip
    lines = run_cli("payload", "digest", built).out.splitlines()
    assert [line.split()[0] for line in lines] == ["metadata", "payload"]
    signature = bench.put("signature", bytes(256))
    result = run_cli(
        "payload", "attach-signature", built, "--metadata-signature", signature, "--payload-signature", signature,
        "--output", bench.folder / "signed",
    )  # fmt: skip
    assert result.out.endswith("signatures attached; check it with `update-agent payload verify`\n")


@pytest.mark.parametrize(
    ("action", "options", "status", "kind"),
    [
        ("inspect", [], 1, Kind.PAYLOAD_TRUNCATED),
        ("verify", ["--public-key", str(RSA_A_PUBLIC)], 1, Kind.PAYLOAD_TRUNCATED),
        ("digest", [], 1, Kind.PAYLOAD_TRUNCATED),
    ],
)
@pytest.mark.parametrize("size", [0, 10, 100])
def test_payload_that_is_cut_is_said_to_be(
    bench: Bench, action: str, options: list[str], status: int, kind: Kind, size: int
) -> None:
    result = run_cli("payload", action, bench.put("cut", PAYLOAD[:size]), "--json", *options)
    assert (result.status, result.kind) == (status, kind), result.err


@pytest.mark.parametrize(
    ("options", "status", "kind"),
    [
        ([], 6, Kind.KEY_MISSING),
        (["--public-key", "/nonexistent"], 6, Kind.KEY_MISSING),
        (["--public-key", str(RSA_B_PUBLIC)], 6, Kind.SIGNATURE_INVALID),
    ],
)
def test_payload_verify_without_the_right_key_fails(bench: Bench, options: list[str], status: int, kind: Kind) -> None:
    result = run_cli("payload", "verify", bench.put("p", PAYLOAD), "--json", *options)
    assert (result.status, result.kind) == (status, kind)


def test_payload_extract_needs_an_output(bench: Bench) -> None:
    result = run_cli("payload", "extract", bench.put("p", PAYLOAD), "--public-key", RSA_A_PUBLIC)
    assert (result.status, result.err) == (
        2,
        "update-agent: extract: expected an output, got none\nhint: give --usr OUT\n",
    )


def test_payload_extract_of_two_parts_to_one_file_is_refused(bench: Bench) -> None:
    payload, out = bench.put("p", make_payload(NEW, NEW[:100])), bench.put("out", b"precious")
    again = bench.folder / "." / "sub" / ".." / "out"
    result = run_cli("payload", "extract", payload, "--public-key", RSA_A_PUBLIC, "--usr", out, "--kernel", again)
    assert result.status == 2
    assert out.read_bytes() == b"precious"


# Options, help, errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["--image", "IMAGE", "--json", "slots"],
        ["slots", "--image", "IMAGE", "--json"],
        ["--image", "IMAGE", "slots", "--json"],
        ["--json", "slots", "--image", "IMAGE"],
    ],
)
def test_common_options_may_stand_before_and_after_the_verb(bench: Bench, arguments: list[str]) -> None:
    given = [str(bench.image) if argument == "IMAGE" else argument for argument in arguments]
    assert len(run_cli(*given).json["slots"]) == 2


def test_option_after_the_verb_wins(bench: Bench) -> None:
    assert run_cli("--image", "/nonexistent", "status", "--image", bench.image).status == 0


def all_parsers(parser: ArgumentParser, name: str = "update-agent") -> Iterator[tuple[str, ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for verb, below in action.choices.items():
                yield from all_parsers(below, f"{name} {verb}")


PARSERS = dict(all_parsers(build_parser()))


@pytest.mark.parametrize("name", PARSERS)
def test_help_has_an_example_that_parses(name: str) -> None:
    result = run_cli(*name.split()[1:], "--help")
    assert (result.status, result.err) == (0, "")
    examples = [line.split() for line in result.out.splitlines() if line.startswith("  update-agent ")]
    assert examples
    for example in examples:
        args = build_parser().parse_args(example[1:])
        assert callable(args.run)
    if name != "update-agent":
        assert any(" ".join(name.split()[1:]) in " ".join(example) for example in examples)


def test_help_explains_every_exit_status_that_is_used() -> None:
    text = run_cli("--help").out
    for number in ("0 done", "1 failed", "2 wrong use", "3 no", "5 refused", "6 verification failed", "130 interr"):
        assert number in text


def test_version_is_printed() -> None:
    assert run_cli("--version").out == f"update-agent {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--nonsense"],
        ["status", "--imag", "x"],
        ["--booted", "C"],
        ["--color", "purple"],
        ["activate", "C"],
        ["payload"],
        ["payload", "inspect"],
        ["install", "--workers", "0"],
        ["install", "--workers", "-1"],
        ["install", "--workers", "9" * 5000],
        ["install", "--attempts", "0"],
        ["install", "--stall-timeout", "nan"],
        ["install", "--stall-timeout", "0"],
        ["install", "--connect-timeout", "1e300"],
        ["install", "--connect-timeout", "x"],
        ["install", "--limit-rate", "fast"],
        ["install", "--running-version", "new"],
        ["payload", "build", "--usr", "u", "--output", "o", "--version", "bad..v"],
    ],
)
def test_wrong_use_is_status_2_and_says_how_to_use_it(arguments: list[str]) -> None:
    result = run_cli(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("usage: update-agent")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["repair"], "repair: expected a disk to work on, got none"),
        (["install"], "expected either --payload or --server"),
        (["install", "--payload", "x", "--server", "y"], "expected either --payload or --server"),
        (["install", "--payload", "/nonexistent"], "/nonexistent: cannot open"),
        (["install", "--payload", "x", "--payload", "y"], "expected one file or only URLs"),
        (["install", "--payload", "http://127.0.0.1:1/", "--payload", "y"], "expected an http or https URL"),
        (["install", "--payload", "http://127.0.0.1:1/", "--limit-rate", "3"], "rate_limit"),
        (["check"], "expected an update server, got none"),
        (["check", "--server", "ftp://127.0.0.1"], "expected an http or https URL"),
        (["check", "--server", "http://127.0.0.1:1", "--ca", "/nonexistent"], "expected certificates"),
    ],
)
def test_wrong_value_is_status_2(bench: Bench, arguments: list[str], words: str) -> None:
    given = [*arguments, "--public-key", str(RSA_A_PUBLIC)] if "install" in arguments else arguments
    result = run_cli(*given) if arguments == ["repair"] else bench.run(*given)
    assert (result.status, result.out) == (2, "")
    assert words in result.err
    bench.assert_old_release_boots()


@pytest.mark.parametrize("name", ["nonexistent", "folder", "empty", "text"])
def test_image_that_is_none_is_said_to_be(bench: Bench, name: str) -> None:
    (bench.folder / "folder").mkdir()
    bench.put("empty", b"")
    bench.put("text", b"hello\n" * 1000)
    result = run_cli("--image", bench.folder / name)
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(f"update-agent: {bench.folder / name}: ")


def test_error_in_json_is_a_document_and_a_sentence(bench: Bench) -> None:
    result = bench.run("install", "--payload", "x", "--json")
    assert result.kind == Kind.KEY_MISSING
    assert result.err == f"update-agent: {result.json['error']['message']}\nhint: {result.json['error']['hint']}\n"


# The console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("color", "environment", "is_terminal", "wanted"),
    [
        (Color.AUTO, {}, True, True),
        (Color.AUTO, {}, False, False),
        (Color.AUTO, {"NO_COLOR": "1"}, True, False),
        (Color.AUTO, {"NO_COLOR": ""}, True, True),
        (Color.AUTO, {"TERM": "dumb"}, True, False),
        (Color.ALWAYS, {"NO_COLOR": "1"}, False, True),
        (Color.NEVER, {}, True, False),
    ],
)
def test_color_is_decided_by_option_then_environment_then_terminal(
    color: Color, environment: dict[str, str], is_terminal: bool, wanted: bool
) -> None:
    out = Terminal() if is_terminal else io.StringIO()
    console = Console(color=color, environment=environment, stdout=out, stderr=out)
    assert console.paint(Style.GOOD, "x") == ("\x1b[32mx\x1b[0m" if wanted else "x")
    console.warn("careful")
    assert ("\x1b[33m" in out.getvalue()) is wanted


def test_color_always_colours_an_error(bench: Bench) -> None:
    assert "\x1b[31m" in run_cli("--color", "always", "status").err
    assert "\x1b[" in bench.run("--color", "always").out
    assert "\x1b[" not in bench.run().out


def test_progress_on_a_terminal_is_a_bar_and_the_cursor_comes_back() -> None:
    terminal = Terminal()
    console = Console(environment={}, stdout=io.StringIO(), stderr=terminal)
    with console.progress() as sink:
        sink(Progress(phase=Phase.DOWNLOADING, done_bytes=1 << 20, total_bytes=4 << 20))
        sink(Progress(phase=Phase.DOWNLOADING, done_bytes=4 << 20, total_bytes=4 << 20))
        sink(Progress(phase=Phase.VERIFYING, done_bytes=0, total_bytes=4 << 20))
    assert "downloading" in terminal.getvalue()
    assert "verifying" in terminal.getvalue()
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


def test_progress_bar_that_is_interrupted_gives_the_cursor_back() -> None:
    terminal = Terminal()
    console = Console(environment={}, stdout=io.StringIO(), stderr=terminal)
    with pytest.raises(KeyboardInterrupt), console.progress():
        raise KeyboardInterrupt
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


def test_progress_on_a_dumb_terminal_is_lines() -> None:
    terminal = Terminal()
    console = Console(environment={"TERM": "dumb"}, stdout=io.StringIO(), stderr=terminal)
    with console.progress() as sink:
        for done in range(0, 1001, 7):
            sink(Progress(phase=Phase.BUILDING, done_bytes=done, total_bytes=1000))
        sink(Progress(phase=Phase.COPYING, done_bytes=0, total_bytes=0))
    assert terminal.getvalue().splitlines() == [
        *(f"building: {tenth}0 % of 1000 bytes".replace(" 00 ", " 0 ") for tenth in range(10)),
        "copying: 100 % of 0 bytes",
    ]


def test_fail_without_hint_is_one_line() -> None:
    err = io.StringIO()
    Console(environment={}, stdout=io.StringIO(), stderr=err).fail(RefusedError(Kind.BUSY, "busy"))
    assert err.getvalue() == "update-agent: busy\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (1 << 50, "1024.0 TiB"),
    ],
)
def test_format_bytes_is_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text

"""Times whole commands - start-up, signature, flush and read-back included - and prints a table.

Every figure of ours stands beside its reference, measured in turn with it. Called by scripts/benchmark.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(".cache/benchmark")
GROWTH_MIB = (128, 256, 512, 1024)
LIMIT_ZSTD, LIMIT_BZIP2, LIMIT_RSS_MIB = 1.3, 0.55, 64


@dataclass(frozen=True, slots=True)
class Run:
    """One command: wall clock, and memory of its largest process."""

    seconds: float
    peak_mib: float


def measure(command: Sequence[str | Path]) -> Run:
    """Run to the end; a failure ends the benchmark."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        sys.exit(f"benchmark: {command[0]} failed: {errors.decode(errors='replace')}")
    return Run(seconds, usage.ru_maxrss / 1024)


def make(path: Path, command: Callable[[Path], Sequence[str | Path]]) -> Path:
    """The file, made once and kept."""
    if not path.exists():
        print(f"benchmark: making {path}", file=sys.stderr)
        beside = path.with_name(f"new-{path.name}")
        subprocess.run(command(beside), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        beside.rename(path)
    return path


def image(size_mib: int) -> Path:
    """An ext4 image of real files."""
    return make(
        CACHE / f"usr-{size_mib}.img",
        lambda out: [
            "scripts/make-release", "--version", "2.0.0",
            "--size-mib", str(size_mib), "--files-mib", str(size_mib * 9 // 10), out,
        ],
    )  # fmt: skip


def payload(size_mib: int, *options: str) -> Path:
    """A signed payload of that image."""
    key = make(CACHE / "signing.pem", lambda out: ["openssl", "genrsa", "-out", out, "2048"])
    make(CACHE / "keys.pem", lambda out: ["openssl", "rsa", "-in", key, "-pubout", "-out", out])
    usr = image(size_mib)
    return make(
        CACHE / f"{size_mib}{''.join(options)}.payload",
        lambda out: [
            "update-agent", "payload", "build", "--usr", usr, "--version", "2.0.0", "--key", key, *options,
            "--output", out,
        ],
    )  # fmt: skip


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """URL of a payload on a server of ours."""
    folder = CACHE / "served"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    name = "release-2.0.0.payload"
    os.link(path, folder / name)
    command = ["update-agent-fleet", "serve", "--payloads", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().removeprefix("listening on ").strip() + f"payloads/{name}"
        finally:
            server.terminate()


def install(url: str, disk: Path) -> Run:
    """One install over HTTP into a file-backed slot; the slot is as the last install left it."""
    shutil.rmtree(disk.with_name(disk.name + ".state"), ignore_errors=True)
    return measure(
        ["update-agent", "--image", disk, "install", "--payload", url, "--public-key", CACHE / "keys.pem"]
    )  # fmt: skip


def disk_for(size_mib: int) -> Path:
    """A disk whose slots have the size of the image."""
    disk = CACHE / "disk.img"
    subprocess.run(["scripts/make-disk", disk, image(size_mib)], check=True)
    return disk


def compare(name: str, reference: str, served: Path, size_mib: int, rounds: int, limit: float) -> bool:
    """One row of the table: ours and the reference in turn, after a round that does not count."""
    disk = disk_for(size_mib)
    slot = CACHE / "slot"
    shutil.copyfile(image(size_mib), slot)
    ours, theirs = [], []
    with serving(served) as url:
        for number in range(rounds + 1):
            os.sync()
            their_run = measure(["sh", "-c", reference.format(cache=CACHE, slot=slot)])
            os.sync()
            our_run = install(url, disk)
            if number:
                ours.append(our_run)
                theirs.append(their_run)
    our_secs, their_secs = ([run.seconds for run in runs] for runs in (ours, theirs))
    peak = max(run.peak_mib for run in ours)
    ratio = statistics.median(our_secs) / statistics.median(their_secs)
    good = ratio <= limit and peak <= LIMIT_RSS_MIB
    print(
        f"| {name} | {spread(our_secs)} | {spread(their_secs)} | {ratio:.2f} x (limit {limit}) "
        f"| {peak:.0f} MiB (limit {LIMIT_RSS_MIB}) | {'yes' if good else 'NO'} |",
        flush=True,
    )
    return good


def spread(seconds: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}..{max(seconds):.2f})"


def growth(rounds: int) -> None:
    """Time and memory from 128 MiB to 1 GiB."""
    print("\n| image | install, zstd | per MiB | peak memory |\n|---|---|---|---|")
    for size_mib in GROWTH_MIB:
        disk = disk_for(size_mib)
        with serving(payload(size_mib, "--level", "3")) as url:
            install(url, disk)
            runs = [install(url, disk) for _ in range(rounds)]
        seconds = [run.seconds for run in runs]
        each = statistics.median(seconds) / size_mib * 1000
        print(
            f"| {size_mib} MiB | {spread(seconds)} | {each:.2f} ms | {max(r.peak_mib for r in runs):.0f} MiB |",
            flush=True,
        )


def machine() -> str:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "unknown processor")
    return f"{os.cpu_count()} x {model}, Linux {os.uname().release}, Python {sys.version.split()[0]}"


def main() -> int:
    """Print the table; 1 if a limit was missed."""
    parser = argparse.ArgumentParser(description="Measure installs against plain pipelines of tools.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--growth", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    usr, size = image(args.size_mib), args.size_mib
    zstd_payload, bzip2_payload = payload(size), payload(size, "--format", "1")
    make(CACHE / f"{size}.zst", lambda out: ["zstd", "-q", "-19", "-T0", usr, "-o", out])
    make(CACHE / f"{size}.bz2", lambda out: ["sh", "-c", f"bzip2 -c {usr} > {out}"])
    print(f"{args.size_mib} MiB image of real files, HTTP on the loopback, file-backed slot; {machine()}\n")
    print(
        "| payload | update-agent, median (range) | reference | ratio | peak memory | met |\n|---|---|---|---|---|---|"
    )
    dd = "dd of={slot} bs=1M conv=fsync,notrunc status=none"
    good = [
        compare("zstd", f"zstd -dcq {{cache}}/{size}.zst | {dd}", zstd_payload, size, args.rounds, LIMIT_ZSTD),
        compare("bzip2", f"bzip2 -dc {{cache}}/{size}.bz2 | {dd}", bzip2_payload, size, args.rounds, LIMIT_BZIP2),
    ]
    print(f"\nReferences: `zstd -dc IMG.zst | {dd.format(slot='SLOT')}`, and the same with `bzip2 -dc`.")
    if args.growth:
        growth(max(3, args.rounds // 2))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())

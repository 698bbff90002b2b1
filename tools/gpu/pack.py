"""The bundle: haggle with its kernels, test and bench binaries, goldens, and these scripts; or the same as links, for a rehearsal."""

import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_BYTES = 64 << 20
BENCHES = ("kernels", "decode", "train_step")
DATA = ("tests/goldens", "assets/tiny", "benches/results")
SCRIPTS = ("spend.py", "steps.py", "peers.py", "decode.py", "marks.py", "pack.py", "ranks.py")
# Tests that read the sources: they hold where those are, and say nothing about a GPU.
OF_SOURCES = ("house",)


def build(*commands, env=None):
    """{(kind, name): path} of the binaries of one cargo command each."""
    found = {}
    for command in commands:
        args = ["cargo", *command, "--message-format=json-render-diagnostics"]
        done = subprocess.run(args, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        if done.returncode:
            sys.exit(f"gpu_check: {' '.join(args)} failed")
        for line in done.stdout.splitlines():
            row = json.loads(line)
            if row.get("reason") == "compiler-artifact" and row.get("executable") and row["target"]["name"] != "build-script-build":
                kind = row["target"]["kind"][0]
                found[kind if kind != "bin" else f"bin/{command[0]}", row["target"]["name"]] = Path(row["executable"])
    return found


def place(stage, kind, name):
    """Where a binary lies in a bundle."""
    return stage / {"test": "tests/bin", "lib": "tests/bin", "bench": "benches"}.get(kind, "") / name


def bundle(out):
    if out.exists() and any(out.iterdir()):
        sys.exit(f"gpu_check: {out}: is not empty; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    benches = [f"--bench={name}" for name in BENCHES]
    # In the tests, waits that would hang the card say where they stand, and end; what is timed is as users build it.
    binaries = build(["test", "--no-run"], env={"HAGGLE_WATCHDOG": "1"})
    binaries |= build(["bench", "--no-run", *benches], ["build", "--release"])
    stage = out / "stage"
    for (kind, name), path in binaries.items():
        # Of the binary only the release build, under its own name; main.rs has no tests of its own.
        if kind in ("bin/test", "bin/bench") or kind == "test" and name in OF_SOURCES:
            continue
        to = place(stage, kind, name)
        to.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["strip", "-o", to, path], check=True)
    for folder in DATA:
        shutil.copytree(ROOT / folder, stage / folder)
    (stage / "manifest.json").write_text(json.dumps(manifest(stage), indent=1))
    plain = sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
    squeeze(stage, out / "bundle.tar.xz")
    shutil.rmtree(stage)
    shutil.copy2(ROOT / "tools/gpu_check", out / "gpu_check")
    (out / "gpu").mkdir()
    for name in SCRIPTS:
        shutil.copy2(ROOT / "tools/gpu" / name, out / "gpu" / name)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 2**20:.1f} MiB ({plain / 2**20:.0f} unpacked), {len(binaries)} binaries")
    if size > LIMIT_BYTES:
        sys.exit(f"gpu_check: that is more than {LIMIT_BYTES >> 20} MiB")


def manifest(stage):
    """Which commit, for which GPUs and C library."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    targets = subprocess.run([stage / "haggle", "doctor", "--json", "--threads", "1"], capture_output=True, text=True)
    built_for = json.loads(targets.stdout)["built for"] if targets.returncode == 0 else "unknown"
    if "sm_" not in built_for:
        sys.exit(f"gpu_check: the binaries hold {built_for}: run tools/install-nvcc first")
    libc = subprocess.run(["ldd", "--version"], capture_output=True, text=True).stdout.splitlines()[0].split()[-1]
    return {"commit": commit, "built_for": built_for, "libc": libc, "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def squeeze(stage, archive):
    # The binaries share the library's code: a dictionary that spans them all finds it.
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 256 << 20}]
    with lzma.open(archive, "wb", filters=filters) as file, tarfile.open(fileobj=file, mode="w|") as tar:
        for path in sorted(stage.rglob("*")):
            tar.add(path, path.relative_to(stage), recursive=False)


def unpack(here):
    """The bundle, beside the script."""
    archive = here / "bundle.tar.xz"
    if (here / "manifest.json").exists():
        return
    if not archive.exists():
        sys.exit(f"gpu_check: no {archive}; make one with `gpu_check bundle FOLDER` and run its own gpu_check")
    with lzma.open(archive) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        tar.extractall(here, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


def links(stage, tests):
    """What a rehearsal needs of a bundle, as links to what cargo test builds anyway."""
    names = [f"--test={room}" for room in sorted({name.split()[0] for name in tests})]
    benches = [f"--bench={name}" for name in ("kernels", "decode")]
    binaries = build(["test", "--no-run", *names], ["build", *benches])
    for (kind, name), path in binaries.items():
        to = place(stage, kind, name)
        to.parent.mkdir(parents=True, exist_ok=True)
        if not to.exists():
            to.symlink_to(path)
    for folder in DATA:
        (stage / folder).parent.mkdir(parents=True, exist_ok=True)
        (stage / folder).symlink_to(ROOT / folder)
    (stage / "gpu").symlink_to(ROOT / "tools/gpu")
    (stage / "manifest.json").write_text(json.dumps({"commit": "rehearsal", "libc": "", "built_for": "emu"}))

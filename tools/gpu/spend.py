"""Minutes spent on commands in order: each in a process group of its own, under a limit of its own, its result on disk as it comes.

A command that hangs is killed with its children when its limit is over, one that faults ends alone: the next one starts anew.
"""

import json
import os
import signal
import subprocess
import time


class Purse:
    """What is left to spend, where results go, and how steps went."""

    def __init__(self, out, here, minutes, device):
        self.out, self.here, self.device = out, here, device
        self.end_at = time.monotonic() + 60 * minutes
        self.about, self.steps, self.left_out = {}, [], []
        self.step, self.begun = "", time.monotonic()
        self.calls = self.failed = 0
        out.mkdir(parents=True, exist_ok=True)

    def left(self):
        """Seconds that are left."""
        return self.end_at - time.monotonic()

    def on_gpu(self):
        return self.device.startswith("cuda")

    def begin(self, step):
        self.step, self.begun, self.calls, self.failed = step, time.monotonic(), 0, 0
        print(f"{step} ...", flush=True)

    def finish(self):
        row = {"step": self.step, "failed": self.failed, "of": self.calls, "seconds": round(time.monotonic() - self.begun, 1)}
        self.steps.append(row)
        append(self.out / "steps.jsonl", {**self.about, **row})
        verdict = "nothing ran" if not self.calls else f"{self.failed} of {self.calls} FAILED" if self.failed else "ok"
        print(f"{self.step:<12} {verdict:<18} {row['seconds']:>7.1f} s, {max(self.left(), 0):>5.0f} s left", flush=True)

    def passed(self, step):
        """Whether a step has run, all of it well."""
        return any(row["step"] == step and row["of"] and not row["failed"] for row in self.steps)

    def note(self, row):
        """A measurement."""
        append(self.out / "results.jsonl", {**self.about, **row})

    def verdict(self, good, what):
        """Counts a comparison of this script's own as one command more."""
        self.calls += 1
        self.failed += not good
        print(f"    {what}", flush=True)

    def call(self, args, limit_s, env=None, to=None):
        """Runs a command, its output in the log or in the file `to`; True when it ended well, None when no time was left."""
        shown = " ".join(str(arg).removeprefix(f"{self.here}/") for arg in args)
        limit_s = min(limit_s, self.left())
        if limit_s < 1:
            self.left_out.append(f"{self.step}: {shown[:90]}")
            return None
        self.calls += 1
        own = {"HAGGLE_REQUIRE_GPU": "1"} if self.on_gpu() else {}
        with open(self.out / "gpu_check.log", "a") as log, open(to or os.devnull, "w") as printed:
            log.write(f"\n{self.step}$ {shown}\n")
            log.flush()
            began = time.monotonic()
            ended = ended_how(args, limit_s, log, printed if to else log, self.here, {**os.environ, **own, **(env or {})})
            log.write(f"{ended} after {time.monotonic() - began:.1f} s\n")
        if ended != "exit 0":
            self.failed += 1
            print(f"    {shown[:110]}: {ended}; see gpu_check.log", flush=True)
        return ended == "exit 0"

    def rows(self, args, limit_s, env=None):
        """The JSON rows a command prints; those of one that was cut are kept as far as they go."""
        printed = self.out / "printed.jsonl"
        if self.call(args, limit_s, env, printed) is None:
            return []
        rows = parsed(printed)
        printed.unlink()
        return rows


def append(path, row):
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def parsed(path):
    """The JSON objects of a file, a line each; a last line that was cut is left out."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            rows += [json.loads(line)] if line.startswith("{") else []
        except ValueError:
            pass
    return rows


def ended_how(args, limit_s, log, out, cwd, env):
    """How a command ended: `exit N`, `signal NAME`, `killed over its limit`, or why it did not start."""
    try:
        child = subprocess.Popen(args, cwd=cwd, stdout=out, stderr=log, stdin=subprocess.DEVNULL, env=env, start_new_session=True)
    except OSError as e:
        return f"did not start: {e}"
    try:
        code = child.wait(limit_s)
        return f"exit {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
    except subprocess.TimeoutExpired:
        return f"killed over its limit of {limit_s:.0f} s"
    finally:
        # Children too: a test's own, or a sanitizer's target.
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()

"""What a GPU's minutes are spent on, first things first. A step is a function of the purse; its docstring is its name in the list."""

import shutil
import subprocess

import marks as table_of_marks
from spend import parsed

# Held first to the portable kernels, then again to Hopper's: a binary and a file of its tests each.
TESTS = ("ops cases", "ops rows", "ops sample", "ops attn", "ops attn_shared", "ops attn_segments", "ops fused", "ops head", "ops moe",
         "ops moe_block", "ops optim", "ops credit", "ops far", "ops row_rule", "model emu", "model row_rule", "model bf16", "model gradients",
         "engine families", "engine lora", "engine random", "engine pages", "engine padded", "engine masks", "engine results",
         "engine transfers", "engine graphs", "engine card_memory")
SM90_TESTS = ("emu sm90", "emu sm90_attn", "emu sm90_head", "emu sm90_model", "ops row_rule", "ops cases", "ops attn", "ops fused", "ops head",
              "model bf16")
# What a rehearsal on the emulator builds, and of the first two the one test that it runs: seconds, for the emulator is slow.
REHEARSED = ("engine transfers", "emu sm90", "emu probe")
# Shapes of benches, the one the marks are of first.
SHAPES = ("qwen3-0.6b", "qwen3-8b")
# Ops that PyTorch has a twin of, and those it has not.
TWINS = ("gemm", "attn", "linear_logprob")


def nvidia_smi(query):
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"], capture_output=True, text=True,
                              timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    line = done.stdout.strip().splitlines()
    return [part.strip() for part in line[0].split(",")] if done.returncode == 0 and line else None


def is_sm90(purse):
    # The emulator has both.
    return not purse.on_gpu() or nvidia_smi("compute_cap") == ["9.0"]


def held(purse, names):
    """(name, binary, the option that keeps to its file) of those tests that are here."""
    for name in names:
        room, file = name.split()
        path = purse.here / "tests/bin" / room
        if path.exists():
            yield name, path, f"{file}::"
        else:
            purse.verdict(False, f"{room}: not in the bundle")


def probe(purse):
    """wgmma, mma.sync and the emulator's model of both: the same bits over random tiles"""
    for _, binary, file in held(purse, ("emu probe",)):
        for hopper in ("0", "1") if is_sm90(purse) else ("0",):
            purse.call([binary, file], 60, {"HAGGLE_PROBE_TILES": "1000000" if purse.on_gpu() else "200", "HAGGLE_SM90": hopper})


def doctor(purse):
    """haggle doctor: the GPU, and every kernel against its oracle"""
    purse.call([purse.here / "haggle", "doctor", "--device", purse.device], 60)


def tests(purse):
    """kernel and engine tests, the portable kernels, then Hopper's"""
    # One thread a file: they share a GPU, and a fault names one test.
    plain = {"HAGGLE_BIN": str(purse.here / "haggle"), "HAGGLE_CUDA_SYNC": "1", "HAGGLE_SM90": "0", "HAGGLE_PDL": "0"}
    only = {} if purse.on_gpu() else {"engine transfers": "a_step_that_fails", "emu sm90": "mbarriers_pass_a_ring"}
    for name, binary, file in held(purse, TESTS if purse.on_gpu() else REHEARSED[:1]):
        # Not with HAGGLE_CUDA_SYNC=1, which launches one by one.
        env = {**plain, "HAGGLE_CUDA_SYNC": "0"} if name == "engine graphs" else plain
        purse.call([binary, "--test-threads=1", file + only.get(name, "")], 60, env)
    if not is_sm90(purse):
        return print("    not an sm_90: Hopper's kernels are left out")
    for name, binary, file in held(purse, SM90_TESTS if purse.on_gpu() else REHEARSED[1:2]):
        purse.call([binary, "--test-threads=1", file + only.get(name, "")], 60, {**plain, "HAGGLE_SM90": "1"})


def step(purse):
    """one GRPO step, and decode with graphs and without: the same bits, both times"""
    out, sizes = purse.out / "train", ("2", "4", "32") if purse.on_gpu() else ("1", "2", "6")
    keys = ("rollout.products_per_step", "rollout.group_size", "rollout.max_reply_tokens")
    small = [f"{key}={value}" for key, value in zip(keys, sizes)] + ["eval.products=1", "eval.rollouts=1", "eval.best_of=1"]
    train = [purse.here / "haggle", "train", "--device", purse.device, "--steps", "1", "--out", out]
    purse.call(train + [word for setting in small for word in ("--set", setting)], 90)
    # What comes back from such a machine is often few files.
    shutil.rmtree(out, ignore_errors=True)
    decodes(purse, {"launches": ({}, []), "graphs": ({"HAGGLE_PDL": "0"}, ["--graphs"])})


def decodes(purse, ways):
    """The decode bench two ways, environment and options each: times, and whether the bits are the same."""
    found = {}
    for how, (env, options) in ways.items():
        bench = [purse.here / "benches/decode", "--device", purse.device, "--json", *options]
        for row in purse.rows([*bench, *([] if purse.on_gpu() else ["--short", "--repeat", "1"])], 60, env):
            found.setdefault(row["case"], {}).setdefault(how, {}).update(row)
            if "digest" not in row:
                purse.note({"library": f"haggle, decode by {how}", **row})
    for case, by in found.items():
        digests = [by.get(how, {}).get("digest") for how in ways]
        same = digests[0] is not None and digests[0] == digests[1]
        times = " ".join(f"{how} {1e3 * row['seconds']:.2f} ms" for how, row in by.items() if "seconds" in row)
        purse.verdict(same, f"{case}: {times}, bits {'the same' if same else f'DIFFER: {digests}'}")


def pdl(purse):
    """programmatic dependent launches: the engine's tests of graphs, and decode with them and without: the same bits"""
    if purse.on_gpu() and int((nvidia_smi("compute_cap") or ["0"])[0].split(".")[0]) < 9:
        return print("    before sm_90 there are none: left out")
    only = "" if purse.on_gpu() else "in_bf16"
    for _, binary, file in held(purse, ("engine graphs",)):
        for hopper in ("0", "1") if is_sm90(purse) else ("0",):
            purse.call([binary, "--test-threads=1", file + only], 60, {"HAGGLE_PDL": "1", "HAGGLE_SM90": hopper})
    for dtype, options in (("f32", ["--graphs"]), ("bf16", ["--graphs", "--bf16"])):
        without, with_it = ({"HAGGLE_PDL": "0"}, options), ({"HAGGLE_PDL": "1"}, options)
        decodes(purse, {f"graphs, {dtype}": without, f"graphs, {dtype}, PDL": with_it})


def ranks(purse):
    """two ranks on this one GPU over NCCL, where a libnccl is here: the bits of one rank"""
    # One GPU for two ranks: NCCL 2.30 or newer.
    env = {"NCCL_MULTI_RANK_GPU_ENABLE": "1"}
    if (purse.here / "libnccl.so.2").exists():
        env["HAGGLE_NCCL"] = str(purse.here / "libnccl.so.2")
    haggle, device = purse.here / "haggle", purse.device.split(":")[0]
    found = [row.get("nccl", "") for row in purse.rows([haggle, "doctor", "--ranks", "--json", "--device", device], 60, env)]
    if not found or not found[0].endswith("starts here"):
        return print(f"    left out: {found[0] if found else 'the doctor does not start'}")
    two = ["python3", purse.here / "gpu/ranks.py", "2"]
    for row in purse.rows([*two, haggle, "doctor", "--ranks", "--json", "--device", device], 60, env):
        purse.note({"library": row["transport"], **row})
    keys = ("rollout.products_per_step", "rollout.group_size", "rollout.max_reply_tokens")
    small = [f"{key}={value}" for key, value in zip(keys, ("2", "4", "32") if purse.on_gpu() else ("2", "2", "6"))]
    small += ["dist.lanes=2", "eval.products=1", "eval.rollouts=1", "eval.best_of=1"]
    sets = [word for setting in small for word in ("--set", setting)]
    train = [haggle, "train", "--device", device, "--steps", "1", *sets, "--out"]
    outs = [purse.out / "one-rank", purse.out / "two-ranks"]
    ran = [purse.call([*how, *train, out], 60, env) for how, out in zip(([], two), outs)]
    if all(ran):
        weights = [next((out / "checkpoints").glob("*/model.safetensors")).read_bytes() for out in outs]
        purse.verdict(weights[0] == weights[1], f"weights of two ranks {'are' if weights[0] == weights[1] else 'ARE NOT'} those of one")
    for out in outs:
        shutil.rmtree(out, ignore_errors=True)


def kernels(purse):
    """kernels at the shapes of qwen3-0.6b and 8b beside PyTorch, in alternation"""
    if not purse.on_gpu():
        return ours(purse, ["rmsnorm_fwd"], "tiny")
    for shape in SHAPES:
        for ops in TWINS:
            ours(purse, [ops], shape)
            theirs(purse, ops, shape)
    theirs(purse, "peak", "8192")
    for shape in SHAPES:
        ours(purse, ["rmsnorm", "swiglu", "rope", "sample", "embed", "adamw", "kv", "loss"], shape)


def ours(purse, ops, shape):
    """Our kernels whose names begin so, portable and, where there are some, Hopper's."""
    ways = [("haggle", {"HAGGLE_SM90": "0"})] + ([("haggle, HAGGLE_SM90=1", {"HAGGLE_SM90": "1"})] if is_sm90(purse) and ops[0] in TWINS else [])
    for library, env in ways:
        raw = purse.out / "kernels.jsonl"
        args = [purse.here / "benches/kernels", *ops, "--device", purse.device, "--dtype", "bf16", "--shape", shape, "--json", raw]
        purse.call(args, 60, env)
        # A command that was cut wrote its rows one by one.
        for row in parsed(raw):
            purse.note({"library": library, "model": shape, **row})
        raw.unlink(missing_ok=True)


def theirs(purse, ops, shape):
    """PyTorch's of the same."""
    for row in purse.rows(["python3", purse.here / "gpu/peers.py", ops, shape], 90):
        purse.note(row)


def marks(purse):
    """each mark of the plan, one by one: what is wanted, predicted, measured, on Hopper with its kernels and, where their step went
    well, launches that begin early; beside a decode step the same by PyTorch, with no row rule"""
    told, env = table_of_marks.predicted(purse.here), {"HAGGLE_SM90": "1"} if is_sm90(purse) else {}
    env |= {"HAGGLE_PDL": "1"} if purse.passed("pdl") else {}
    for row in told if purse.on_gpu() else told[:1]:
        command = [purse.here / "haggle", "profile", "marks", row["mark"], "--device", purse.device, "--json"]
        for own in purse.rows(command, 60, env):
            purse.note({"library": "haggle", **own})
        if purse.on_gpu() and row["mark"] in table_of_marks.DECODES:
            step = map(str, table_of_marks.DECODES[row["mark"]])
            for theirs_ in purse.rows(["python3", purse.here / "gpu/decode.py", *step], 60):
                purse.note(theirs_)


def sanitizer(purse):
    """compute-sanitizer's four tools over the self-test, whose shapes are small"""
    if not purse.on_gpu() or not shutil.which("compute-sanitizer"):
        return print("    no compute-sanitizer here")
    command = ["compute-sanitizer", "--error-exitcode=9", "--tool"]
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        purse.call([*command, tool, purse.here / "haggle", "doctor", "--device", purse.device], 60)


def whole(purse):
    """decode, prefill and training of whole models, as long as minutes are left"""
    if purse.on_gpu():
        sizes = [("decode", s, b) for s in SHAPES for b in ("1", "64")] + [("prefill", SHAPES[0], "1"), ("prefill", SHAPES[0], "64")]
    else:
        sizes = [("decode", "tiny", "2")]
    for what, shape, batch in sizes:
        args = [purse.here / "haggle", "profile", what, "--device", purse.device, "--shape", shape, "--batch", batch, "--dtype", "bf16",
                "--prompt", "1024" if batch == "1" and purse.on_gpu() else "32", "--json", "--html", purse.out / f"{what}.html"]
        for row in purse.rows(args + ([] if purse.on_gpu() else ["--steps", "1"]), 90):
            least = sum(op["ms"] * op["roofline"] for op in row["ops"])
            keep = ("title", "step_ms", "busy_ms", "idle_ms", "copy_gb_per_s", "peak_gflop_per_s")
            named = {k: row[k] for k in keep}
            purse.note({"library": "haggle", "case": f"{what}_{shape}_{batch}_bf16", "roofline": least / row["step_ms"], **named})
    if purse.on_gpu():
        for row in purse.rows([purse.here / "benches/train_step", "--device", purse.device, "--json"], 60):
            purse.note({"library": "haggle", **row})
        purse.call([purse.here / "haggle", "profile", "train", "--device", purse.device, "--html", purse.out / "train.html"], 60)


STEPS = {step.__name__: step for step in (probe, doctor, tests, step, pdl, ranks, kernels, marks, sanitizer, whole)}

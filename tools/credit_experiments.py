#!/usr/bin/env python3
"""Shapley credit against plain GRPO on sets, GDPO against summed rewards on the game: many seeds, one HTML page.

    python3 tools/credit_experiments.py --out runs/credit --rows docs/credit.jsonl --svg docs/credit.svg
    python3 tools/credit_experiments.py --out runs/credit --tasks recommend --seeds 2 --steps 6   # a short look
    python3 tools/credit_experiments.py --out runs/credit --report-only

Needs Python alone. A run that is complete is not run again and a started one is resumed, so an interrupted experiment goes
on. Every task's format is taught once (`haggle init --task`); both rules and all seeds start from that base, with the same
products, the same replies a step and the same tokens a reply. The page says: curves with 95 % bands over seeds (Student's
t), the step at which the rule reaches the other's final worth, the free-riding measure (mean advantage of the worst
candidate in the best set of a group), the means on held-out products, and differences paired by seed.
"""
import argparse
import html
import json
import math
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

SETS = ["menu", "recommend", "summary"]
GAME_REWARDS = ["reward.format=0.5", "reward.budget=0.5", "reward.length=0.25"]
# What a task's runs have in common, beside its base.
COMMON = {
    "menu": ["rollout.products_per_step=4", "grpo.steps=20", "eval.rollouts=2"],
    "recommend": ["rollout.products_per_step=8", "grpo.steps=40"],
    "summary": ["rollout.products_per_step=8", "grpo.steps=40"],
    "game": ["rollout.products_per_step=8", "grpo.steps=30", "eval.best_of=1"] + GAME_REWARDS,
}
EVAL = ["eval.products=40", "run.keep=1"]
# Tokens of demonstrations a base is taught on.
TAUGHT = {"menu": 600_000, "recommend": 2_000_000, "summary": 2_000_000}
# Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom.
T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]
COLORS = {0: "#1f6fb4", 1: "#d1603d"}


def rules(task):
    if task == "game":
        return {"summed": ["credit.rule=group"], "gdpo": ["credit.rule=gdpo"]}
    return {"uniform": ["credit.split=uniform"], "shapley": ["credit.split=shapley"]}


def metrics(run):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def call(args, command, log):
    log.parent.mkdir(parents=True, exist_ok=True)
    print(" ".join(command), flush=True)
    with open(log, "a") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.exit(f"ended with {done.returncode}: {' '.join(command)}; see {log}")


def options(args, sets):
    products = ["--products", args.products] if args.products else []
    return products + ["--threads", str(args.threads)] + [part for key in sets for part in ("--set", key)]


def teach(args, task):
    base = args.out / "base" / task
    if task in SETS and not (base / "haggle/init.json").is_file():
        taught = ["--task", task, "--tokens", str(TAUGHT[task]), "--out", str(base)]
        call(args, [args.haggle, "init", *taught, *options(args, EVAL + args.set)], args.out / "base" / f"{task}.log")


def train(args, task, name, sets, seed):
    run = args.out / task / name / str(seed)
    if held_out(run) is not None:
        return
    log = run.parent / f"{seed}.log"
    if (run / "config.toml").is_file():
        return call(args, [args.haggle, "train", "--resume", "--out", str(run)], log)
    sets = COMMON[task] + EVAL + sets + args.set + ([f"grpo.steps={args.steps}"] if args.steps else [])
    command = [args.haggle, "train", "--task", task, "--seed", str(seed), "--out", str(run)]
    if task in SETS:
        command += ["--model", str(args.out / "base" / task)]
        sets = sets + ["task.supervised_tokens=0", "model.seller=embedded"]
    call(args, command + options(args, sets), log)


def band(values):
    values = [v for v in values if v is not None]
    if not values:
        return None
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return mean, 0.0
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, (T95[n - 2] if n <= 10 else 1.96) * spread / math.sqrt(n)


def curve(runs, key):
    steps = min((len(rows) for rows in runs), default=0)
    return [band([rows[i].get(key) for rows in runs]) for i in range(steps)]


def smooth(points, width=5):
    means = [p[0] if p else None for p in points]
    out = []
    for i in range(len(means)):
        near = [m for m in means[max(0, i - width + 1) : i + 1] if m is not None]
        out.append(sum(near) / len(near) if near else None)
    return out


def svg(title, curves, at=None):
    points = [(i, p) for c in curves.values() for i, p in enumerate(c) if p]
    if not points:
        return ""
    low, high = min(p[0] - p[1] for _, p in points), max(p[0] + p[1] for _, p in points)
    high, n = (high if high > low else low + 1e-9), max(i for i, _ in points) or 1
    x = lambda i: 46 + 400 * i / n
    y = lambda v: 190 - 160 * (v - low) / (high - low)
    parts = [f'<text x="46" y="16" font-size="13">{html.escape(title)}</text>']
    for v in (low, (low + high) / 2, high):
        parts.append(f'<line x1="46" x2="446" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="42" y="{y(v) + 4:.1f}" font-size="10" text-anchor="end">{v:.2f}</text>')
    parts.append(f'<text x="446" y="206" font-size="10" text-anchor="end">step {n + 1}</text>')
    for k, (name, c) in enumerate(curves.items()):
        here = [(i, p) for i, p in enumerate(c) if p]
        up = [f"{x(i):.1f},{y(p[0] + p[1]):.1f}" for i, p in here]
        down = [f"{x(i):.1f},{y(p[0] - p[1]):.1f}" for i, p in reversed(here)]
        mean = " ".join(f"{x(i):.1f},{y(p[0]):.1f}" for i, p in here)
        parts.append(f'<polygon points="{" ".join(up + down)}" fill="{COLORS[k]}" opacity="0.18"/>')
        parts.append(f'<polyline points="{mean}" fill="none" stroke="{COLORS[k]}" stroke-width="1.6"/>')
        parts.append(f'<text x="{300 + 80 * k}" y="16" font-size="12" fill="{COLORS[k]}">{html.escape(name)}</text>')
    place = f'x="{at[0]}" y="{at[1]}" height="212"' if at else ""
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 456 212" width="456" {place}>{"".join(parts)}</svg>'


def text(value, form="{:.3f}"):
    return "-" if value is None else f"{form.format(value[0])} ± {form.format(value[1])}"


def held_out(run, model="trained"):
    """The final worth on held-out products, of the trained weights or of those they began as; None before the end."""
    path = run / "sets.json"
    if path.is_file():
        return next(r["row"]["worth"] for r in json.loads(path.read_text()) if r["model"] == model)
    path = run / "summary.json"
    if path.is_file():
        rows = [r for r in json.loads(path.read_text()) if r["buyer"] == model and r["scenario"] == "all"]
        return rows[0]["reward"] if rows else None
    return None


def finished(args, task):
    """The runs of each rule, of the seeds that both rules have finished: a mean over other seeds compares nothing."""
    runs = {}
    for name in rules(task):
        folders = sorted((args.out / task / name).glob("[0-9]*/"))
        runs[name] = [(f, metrics(f)) for f in folders if held_out(f) is not None]
    both = set.intersection(*({f.name for f, _ in r} for r in runs.values()))
    runs = {name: [(f, rows) for f, rows in r if f.name in both] for name, r in runs.items()}
    return runs if both else {}


def table(task, runs):
    """A row a rule: what the final table says."""
    base = next(iter(runs))
    mean = lambda row: [v for v in row if v is not None]
    ends, areas, out = {}, {}, []
    goal = smooth(curve([rows for _, rows in runs[base]], "reward/mean"))[-1]
    for name, r in runs.items():
        worth = curve([rows for _, rows in r], "reward/mean")
        worst = [mean([row.get("credit/worst_in_best") for row in rows]) for _, rows in r]
        ends[name] = [held_out(f) for f, _ in r]
        areas[name] = [sum(row["reward/mean"] for row in rows) / len(rows) for _, rows in r]
        out.append({
            "task": task, "rule": name, "seeds": [f.name for f, _ in r], "steps": len(worth),
            "untrained": band([held_out(f, "untrained") for f, _ in r]),
            "held_out": band(ends[name]), "held_out_by_seed": ends[name],
            "ahead": band([a - b for a, b in zip(ends[name], ends[base])]) if name != base else None,
            "mean_of_all_steps": band(areas[name]),
            "mean_of_all_steps_ahead": band([a - b for a, b in zip(areas[name], areas[base])]) if name != base else None,
            "last_5_steps": smooth(worth)[-1],
            "reaches_the_first_rule_s_end_at_step": next((i + 1 for i, m in enumerate(smooth(worth)) if m is not None and m >= goal), None),
            "worst_in_best": band([sum(w) / len(w) for w in worst if w]),
            "seconds_a_step": band([sum(row["time/step_s"] for row in rows) / len(rows) for _, rows in r]),
            "credit_share_of_step": band([sum(row["time/credit_s"] for row in rows) / sum(row["time/step_s"] for row in rows) for _, rows in r if "time/credit_s" in rows[0]]),
        })
    return out


def markdown(rows):
    print("| task | rule | untrained | held out | ahead, paired | mean of all steps | end of the first rule at step | worst candidate of the best set |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        at = r["reaches_the_first_rule_s_end_at_step"]
        cells = [r["task"], r["rule"], "-" if r["untrained"] is None else f"{r['untrained'][0]:.3f}", text(r["held_out"])]
        cells += [text(r["ahead"], "{:+.3f}").replace("± +", "± "), text(r["mean_of_all_steps"]), f"{at or 'never'} of {r['steps']}", text(r["worst_in_best"], "{:+.3f}").replace("± +", "± ")]
        print("| " + " | ".join(cells) + " |")


def section(task, runs, rows):
    base, other = runs
    of = lambda key: {name: curve([rows for _, rows in r], key) for name, r in runs.items()}
    keys = [("reward/mean", "mean worth of a reply" if task in SETS else "mean reward of an episode")]
    keys += [("sets/candidate", "mean utility of a candidate"), ("sets/distinct", "share of distinct candidates"),
             ("sets/malformed", "share of malformed replies"), ("credit/worst_in_best", "advantage of the worst in the best set")]
    if task == "game":
        keys = keys[:1] + [("format_error_rate", "format errors"), ("overshoot_rate", "overshoots"), ("deal_rate", "deals")]
    keys += [("policy/entropy", "entropy, nats a token")]
    page = f"<h2>{task}: {other} against {base}</h2>" + "".join(svg(title, of(key)) for key, title in keys)
    heads = ["rule", "seeds", "untrained", "held out", "ahead, paired", "mean of all steps", "end of the first rule at step", "worst in best", "seconds a step", "credit, % of a step"]
    page += "<table><tr>" + "".join(f"<th>{h}" for h in heads)
    for r in rows:
        share = r["credit_share_of_step"]
        cells = [r["rule"], len(r["seeds"]), text(r["untrained"]), text(r["held_out"]), text(r["ahead"]), text(r["mean_of_all_steps"])]
        cells += [f"{r['reaches_the_first_rule_s_end_at_step'] or 'never'} of {r['steps']}", text(r["worst_in_best"]), text(r["seconds_a_step"], "{:.2f}")]
        cells += ["-" if share is None else f"{100 * share[0]:.4f}"]
        page += "<tr>" + "".join(f"<td>{html.escape(str(c))}" for c in cells)
    return page + "</table>"


def report(args):
    tasks = {task: finished(args, task) for task in args.tasks}
    tables = {task: table(task, runs) for task, runs in tasks.items() if runs}
    style = "body{font:14px sans-serif;max-width:960px;margin:2em auto}table{border-collapse:collapse}td,th{padding:3px 10px;border-bottom:1px solid #ccc;text-align:left}"
    body = "".join(section(task, tasks[task], rows) for task, rows in tables.items())
    command = "tools/credit_experiments.py " + " ".join(arg for arg in sys.argv[1:] if arg != "--report-only")
    what = f"Means and 95 % bands over seeds. Made by {html.escape(command)}"
    path = args.out / "report.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>credit</title><style>{style}</style><h1>Credit</h1><p>{what}</p>{body}\n")
    markdown([row for rows in tables.values() for row in rows])
    if args.rows:
        lines = [json.dumps({"command": command} | row) for rows in tables.values() for row in rows]
        args.rows.write_text("".join(line + "\n" for line in lines))
    if args.svg:
        of = lambda runs: {name: curve([rows for _, rows in r], "reward/mean") for name, r in runs.items()}
        charts = [svg(f"{task}: mean worth", of(tasks[task]), (460 * (i % 2), 216 * (i // 2))) for i, task in enumerate(tables)]
        size = f'viewBox="0 0 920 {216 * ((len(charts) + 1) // 2)}" width="920" font-family="sans-serif"'
        args.svg.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size}><rect width="100%" height="100%" fill="white"/>{"".join(charts)}</svg>\n')
    print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haggle", default="target/release/haggle")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=SETS + ["game"], choices=SETS + ["game"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of every task, in place of its own number")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--products", help="a folder of AmazonHistoryPrice files; the embedded catalog without")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rows", type=pathlib.Path, help="also write the final table here, a JSON object a row")
    parser.add_argument("--svg", type=pathlib.Path, help="also draw the curves of the worth here")
    parser.add_argument("--report-only", action="store_true")
    args = parser.parse_args()
    if not args.report_only:
        jobs = [(task, name, sets, seed) for seed in range(1, args.seeds + 1) for task in args.tasks for name, sets in rules(task).items()]
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda task: teach(args, task), args.tasks))
            list(pool.map(lambda job: train(args, *job), jobs))
    report(args)


if __name__ == "__main__":
    main()

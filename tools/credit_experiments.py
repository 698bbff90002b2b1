#!/usr/bin/env python3
"""Shapley credit against plain GRPO on sets, GDPO against summed rewards on the game: many seeds, one HTML page.

    python3 tools/credit_experiments.py --haggle target/release/haggle --out runs/credit
    python3 tools/credit_experiments.py --out runs/credit --tasks recommend --seeds 2 --steps 6   # a short look
    python3 tools/credit_experiments.py --out runs/credit --report-only

Needs Python alone. A run that is complete is not run again, so an interrupted experiment goes on. Both rules of a task
have the same seeds, products, tokens a reply and replies a step. The page says: curves with 95 % bands over seeds
(Student's t), the step at which the rule reaches the other's final worth, the free-riding measure (mean advantage of the
worst candidate in the best set of a group), and the final means on held-out products.
"""
import argparse
import html
import json
import math
import pathlib
import subprocess
import sys

SETS = ["menu", "recommend", "summary"]
GAME_REWARDS = ["reward.format=0.5", "reward.budget=0.5", "reward.length=0.25"]
# Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom.
T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]
COLORS = {0: "#1f6fb4", 1: "#d1603d"}


def rules(task):
    if task == "game":
        return {"summed": GAME_REWARDS, "gdpo": GAME_REWARDS + ["credit.rule=gdpo"]}
    return {"uniform": ["credit.split=uniform"], "shapley": ["credit.split=shapley"]}


def metrics(run):
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def train(args, task, name, sets, seed):
    run = args.out / task / name / str(seed)
    if len(metrics(run)) >= args.steps and (run / "config.toml").is_file():
        return
    command = [args.haggle, "train", "--task", task, "--steps", str(args.steps), "--seed", str(seed), "--out", str(run)]
    command += [part for key in sets + args.set for part in ("--set", key)]
    if args.products:
        command += ["--products", args.products]
    print(" ".join(command), flush=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    with open(run.parent / f"{seed}.log", "w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.exit(f"{task} {name} seed {seed}: haggle ended with {done.returncode}; see {run.parent / f'{seed}.log'}")


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


def svg(title, curves):
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
        at = [(i, p) for i, p in enumerate(c) if p]
        up = [f"{x(i):.1f},{y(p[0] + p[1]):.1f}" for i, p in at]
        down = [f"{x(i):.1f},{y(p[0] - p[1]):.1f}" for i, p in reversed(at)]
        mean = " ".join(f"{x(i):.1f},{y(p[0]):.1f}" for i, p in at)
        parts.append(f'<polygon points="{" ".join(up + down)}" fill="{COLORS[k]}" opacity="0.18"/>')
        parts.append(f'<polyline points="{mean}" fill="none" stroke="{COLORS[k]}" stroke-width="1.6"/>')
        parts.append(f'<text x="{300 + 80 * k}" y="16" font-size="12" fill="{COLORS[k]}">{html.escape(name)}</text>')
    return f'<svg viewBox="0 0 456 212" width="456">{"".join(parts)}</svg>'


def text(value, form="{:.3f}"):
    return "-" if value is None else f"{form.format(value[0])} ± {form.format(value[1])}"


def held_out(run):
    path = run / "sets.json"
    if path.is_file():
        return next(r["row"]["worth"] for r in json.loads(path.read_text()) if r["model"] == "trained")
    path = run / "summary.json"
    if path.is_file():
        rows = [r for r in json.loads(path.read_text()) if r["buyer"] == "trained" and r["scenario"] == "all"]
        return rows[0]["reward"] if rows else None
    return None


def section(args, task):
    runs = {}
    for name in rules(task):
        folders = sorted((args.out / task / name).glob("[0-9]*/"))
        runs[name] = [(f, metrics(f)) for f in folders if metrics(f)]
    # Only seeds that both rules have finished: a mean over other seeds compares nothing.
    done = [{f.name for f, rows in r if held_out(f) is not None} for r in runs.values()]
    runs = {name: [(f, rows) for f, rows in r if f.name in done[0] & done[1]] for name, r in runs.items()}
    if not all(runs.values()):
        return ""
    base, other = runs
    of = lambda key: {name: curve([rows for _, rows in r], key) for name, r in runs.items()}
    keys = [("reward/mean", "mean worth of a reply" if task in SETS else "mean reward of an episode")]
    keys += [("sets/candidate", "mean utility of a candidate"), ("sets/distinct", "share of distinct candidates"),
             ("sets/malformed", "share of malformed replies"), ("credit/worst_in_best", "advantage of the worst in the best set")]
    if task == "game":
        keys = keys[:1] + [("format_error_rate", "format errors"), ("overshoot_rate", "overshoots"), ("deal_rate", "deals")]
    page = f"<h2>{task}: {other} against {base}</h2>" + "".join(svg(title, of(key)) for key, title in keys)
    worth = of("reward/mean")
    goal = smooth(worth[base])[-1]
    reach = next((i + 1 for i, m in enumerate(smooth(worth[other])) if m is not None and m >= goal), None)
    page += "<table><tr><th>rule<th>seeds<th>worth, last step<th>worst in best, mean of all steps<th>held out<th>seconds a step"
    for name, r in runs.items():
        worst = [[row.get("credit/worst_in_best") for row in rows] for _, rows in r]
        worst = band([sum(v for v in w if v is not None) / max(1, sum(v is not None for v in w)) for w in worst])
        seconds = band([sum(row["time/step_s"] for row in rows) / len(rows) for _, rows in r])
        ends = [held_out(f) for f, _ in r]
        cells = [name, len(r), text(worth[name][-1]), text(worst) if task in SETS else "-", text(band(ends)), text(seconds, "{:.1f}")]
        page += "<tr>" + "".join(f"<td>{html.escape(str(c))}" for c in cells)
    said = f"step {reach} of {len(worth[other])}" if reach else f"not in {len(worth[other])} steps"
    page += f"</table><p>{other} reaches the final worth of {base} ({goal:.3f}, mean of the last five steps): {said}.</p>"
    credit = [row["time/credit_s"] / row["time/step_s"] for r in runs.values() for _, rows in r for row in rows if "time/credit_s" in row]
    if credit:
        page += f"<p>Credit takes {100 * sum(credit) / len(credit):.4f} % of a step.</p>"
    return page


def report(args):
    style = "body{font:14px sans-serif;max-width:960px;margin:2em auto}table{border-collapse:collapse}td,th{padding:3px 10px;border-bottom:1px solid #ccc;text-align:left}"
    body = "".join(section(args, task) for task in SETS + ["game"])
    what = f"Means and 95 % bands over seeds. Made by tools/credit_experiments.py: {html.escape(' '.join(sys.argv[1:]))}"
    path = args.out / "report.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>credit</title><style>{style}</style><h1>Credit</h1><p>{what}</p>{body}\n")
    print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haggle", default="target/release/haggle")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=SETS, choices=SETS + ["game"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--products", help="a folder of AmazonHistoryPrice files; the embedded catalog without")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--report-only", action="store_true")
    args = parser.parse_args()
    if not args.report_only:
        for seed in range(1, args.seeds + 1):
            for task in args.tasks:
                for name, sets in rules(task).items():
                    train(args, task, name, sets, seed)
    report(args)


if __name__ == "__main__":
    main()

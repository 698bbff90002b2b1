"""What a run is held to: the marks of an H100 beside what was predicted and what was measured, and what PyTorch did beside.

Which marks there are, and how each is run, says `haggle profile marks` (src/profile/marks.rs); benches/results/predicted.jsonl holds what
that command says on the emulator.
"""

from spend import parsed

UNITS = {"us": "{:.1f} us", "tflops": "{:.0f} TFLOP/s", "share": "{:.2f}", "launches": "{:.0f}"}
# Beyond which a prediction is to be explained.
OFF = 1.5
# Marks that are a decode step, and what decode.py times beside: shape, batch, context.
DECODES = {
    "decode 0.6B, batch 1, context 1k": ["qwen3-0.6b", 1, 1024],
    "decode 8B, batch 1": ["qwen3-8b", 1, 128],
    "decode 8B, batch 64": ["qwen3-8b", 64, 128],
}


def predicted(here):
    """The rows of the predictions, in the order of the marks."""
    return parsed(here / "benches/results/predicted.jsonl")


def table(rows, told):
    """Lines: each mark, what is wanted, predicted and measured, whether it holds, how far the prediction is off."""
    found = {row["mark"]: row for row in rows if "mark" in row}
    lines = [f"{'mark':<56} {'wanted':>14} {'predicted':>14} {'measured':>14}"]
    for row in told:
        words = UNITS[row["unit"]].format
        own = found.get(row["mark"])
        cells = [words(row["wanted"]), words(row["value"]), words(own["value"]) if own else "not run"]
        line = f"{row['mark']:<56} " + " ".join(f"{cell:>14}" for cell in cells)
        if own:
            line += "  holds" if own["holds"] else "  MISSED"
            ratio = own["value"] / row["value"] if row["value"] else 1.0
            off = max(ratio, 1 / ratio) if ratio > 0 else 1.0
            line += f", {off:.1f}x off the prediction: EXPLAIN" if off > OFF else ""
        lines.append(line)
    return lines + tax(rows, found) + beside(rows)


def tax(rows, found):
    """Lines: what each decode step costs with the row rule, over one without."""
    lines = []
    for row in (row for row in rows if "decode" in row):
        for mark in (mark for mark, step in DECODES.items() if step == row["decode"] and "us" in found.get(mark, {})):
            us, theirs = found[mark]["us"], row["median_us"]
            lines.append(f"{mark:<56} {us:>10.1f} us, torch from a CUDA graph, no row rule {theirs:>10.1f}: exactness costs {us / theirs:.2f}x")
    return lines


def beside(rows):
    """Lines: each case of PyTorch beside the ops of ours that do the same."""
    lines, ours = [], {}
    for row in rows:
        if "op" in row:
            ours.setdefault(row["library"], {})[row["op"], row["shape"]] = row["median_us"]
    for row in rows:
        twin = [tuple(pair) for pair in row.get("twin") or []]
        for library, times in ours.items() if twin else ():
            if all(pair in times for pair in twin):
                us = sum(times[pair] for pair in twin)
                lines.append(f"{row['case']:<56} {library:<24} {us:>10.1f} us, torch {row['median_us']:>10.1f}:"
                             f" {row['median_us'] / us:.2f}x its speed")
    return lines


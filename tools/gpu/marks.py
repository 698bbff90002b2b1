"""What a run is held to: the marks of an H100, and what PyTorch did beside."""

# (what, the mark in words, how it is found among the rows as (value, better when higher), the mark).
MARKS = (
    ("decode 0.6B, batch 1, context 1k", "0.75 of the bandwidth roofline", "share", "decode_qwen3-0.6b_1_bf16", 0.75),
    ("decode 8B, batch 1", "0.85 of the roofline", "share", "decode_qwen3-8b_1_bf16", 0.85),
    ("decode 8B, batch 64", "0.85 of the roofline", "share", "decode_qwen3-8b_64_bf16", 0.85),
    ("attention forward, head 128, causal, 4k", "500 TFLOP/s", "tflops", ("attn_fwd", "N 4096 H 16 D 128 B 1"), 500.0),
    ("attention backward, head 128, causal, 4k", "400 TFLOP/s", "tflops", ("attn_bwd", "N 4096 H 16 D 128 B 1"), 400.0),
    ("sampling, vocabulary 152k", "15 us", "us", ("sample", "V 151936"), 15.0),
    ("elementwise: the worst of rmsnorm, swiglu, rope, adamw", "0.85 of bandwidth", "worst",
     ("rmsnorm_fwd", "swiglu_fwd", "rope_fwd", "adamw"), 0.85),
)


def table(rows):
    """Lines: what, its mark, what was measured by the best of our ways, and whether it holds."""
    lines = [f"{'mark':<56} {'wanted':<30} {'measured':>12}"]
    for what, words, kind, of, mark in MARKS:
        value = measured(rows, kind, of)
        good = value is not None and (value <= mark if kind == "us" else value >= mark)
        told = "not measured" if value is None else f"{value:.3g} {'holds' if good else 'MISSED'}"
        lines.append(f"{what:<56} {words:<30} {told:>12}")
    return lines + beside(rows)


def measured(rows, kind, of):
    """The best value among our rows; for `worst` the lowest share over ops of each one's best."""
    own = [row for row in rows if row.get("library", "").startswith("haggle")]
    if kind == "share":
        return max((row["roofline"] for row in own if row.get("case") == of), default=None)
    if kind == "worst":
        shares = [[row["roofline"] for row in own if row.get("op") == op and row.get("roofline")] for op in of]
        return min((max(share) for share in shares if share), default=None)
    op, shape = of
    times = [(row["median_us"], row) for row in own if row.get("op", "").startswith(op) and shape in row.get("shape", "")]
    if not times:
        return None
    us, row = min(times, key=lambda pair: pair[0])
    return us if kind == "us" else row["flops"] / us / 1e6


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


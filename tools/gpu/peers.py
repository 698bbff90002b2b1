#!/usr/bin/env python3
"""peers.py OPS SHAPE [DEVICE]: PyTorch's time for what our OPS do at the SHAPE of a model, a JSON row a case.

OPS: gemm, attn, linear_logprob, or peak (a copy and products of SHAPE^3: the ceilings). A case that does not fit is named on
stderr and the next one is timed; the exit code is then 1.
"""

import json
import sys

# Width, intermediate width, query heads, kv heads, head, vocabulary.
MODELS = {
    "qwen3-0.6b": (1024, 3072, 16, 8, 128, 151936),
    "qwen3-8b": (4096, 12288, 32, 8, 128, 151936),
    "tiny": (64, 128, 4, 2, 16, 2048),
}


def main():
    ops, shape, device = (*sys.argv[1:], "cuda")[:3]
    try:
        import torch
    except ImportError:
        sys.exit("peers: no PyTorch for this Python")
    failed = False
    for case, (flops, bytes_), make, twin in cases(torch, ops, shape, device):
        try:
            us = 1e3 * median_ms(torch, make(), device)
            row = {"library": "torch", "model": shape, "case": case, "twin": twin, "median_us": us, "torch": torch.__version__,
                   "tflop_per_s": flops / us / 1e6, "gb_per_s": bytes_ / us / 1e3}
            print(json.dumps(row), flush=True)
        except Exception as e:  # a case that does not fit must not end the others
            failed = True
            print(f"peers: {case}: {e}", file=sys.stderr)
        if device == "cuda":
            torch.cuda.empty_cache()
    sys.exit(failed)


def cases(torch, ops, shape, device):
    """(name, (FLOPs, bytes), what makes a call, the (op, shape) of ours that do the same)."""
    bf16 = torch.bfloat16

    def normal(*size, grad=False):
        return torch.randn(*size, device=device, dtype=bf16).requires_grad_(grad)

    def product(m, n, k):
        a, b = normal(m, k), normal(n, k)
        return lambda: a @ b.T

    if ops == "peak":
        n = int(shape)

        def copy():
            x, y = (torch.empty(n * n << 4, device=device, dtype=torch.uint8) for _ in range(2))
            return lambda: y.copy_(x)

        yield f"copy {n * n >> 16} MiB", (0, n * n << 5), copy, []
        yield f"gemm_nt bf16 M {n} N {n} K {n}", (2 * n**3, 6 * n**2), lambda: product(n, n, n), []
        return
    c, i, h, kv, d, v = MODELS[shape]
    if ops == "gemm":
        for n, k in (((h + 2 * kv) * d, c), (c, h * d), (i, c), (c, i), (v, c)):
            for m in (1, 16, 64, 128, 4096):
                cost = (2 * m * n * k, 2 * (m * k + n * k + m * n))
                yield (f"gemm_nt bf16 M {m} N {n} K {k}", cost, lambda m=m, n=n, k=k: product(m, n, k),
                       [["gemm_nt", f"M {m} N {n} K {k}"]])
    if ops == "attn":
        sdpa = torch.nn.functional.scaled_dot_product_attention
        for b, t in ((8, 512), (1, 4096)):
            def attend(back, b=b, t=t):
                q, k, w = (normal(b, heads, t, d, grad=back) for heads in (h, kv, kv))
                fwd = lambda: sdpa(q, k, w, is_causal=True, enable_gqa=True)
                return (lambda: fwd().sum().backward()) if back else fwd

            flops, moved = 4 * d * h * b * t * (t + 1) // 2, 4 * b * t * (h + kv) * d
            name, ours = f"B {b} T {t} H {h} Hk {kv} D {d}", f"N {b * t} H {h} D {d} B {b}"
            yield f"attn_fwd {name}", (flops, moved), lambda f=attend: f(False), [["attn_fwd", ours]]
            yield (f"attn_fwd+bwd {name}", (3.5 * flops, 3 * moved), lambda f=attend: f(True),
                   [["attn_fwd", ours], ["attn_bwd", ours]])
    if ops == "linear_logprob":
        for n, width, words in ((4096, c, v), (4096, 2048, 131072)):
            def loss(n=n, width=width, words=words):
                x, w = normal(n, width, grad=True), normal(words, width, grad=True)
                target = torch.randint(words, (n,), device=device)
                return lambda: torch.nn.functional.cross_entropy((x @ w.T).float(), target).backward()

            ours = f"N {n} C {width} V {words}"
            yield (f"linear_logprob fwd+bwd {ours}", (6 * n * width * words, 2 * (n + words) * width), loss,
                   [["linear_logprob_fwd", ours], ["linear_logprob_bwd", ours]])


def median_ms(torch, call, device):
    import time
    for _ in range(5):
        call()
    times = []
    for _ in range(30):
        if device != "cuda":
            began = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - began))
            continue
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    main()

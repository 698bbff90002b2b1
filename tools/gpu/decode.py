#!/usr/bin/env python3
"""decode.py SHAPE BATCH CONTEXT [DEVICE]: PyTorch's time for one decode step of a model's shape, a JSON row.

The same step as ours with the row rule given up: products by cuBLASLt, which takes another order of the sums for another batch and may
cut K; attention as PyTorch likes; all of it from one CUDA graph, with random weights in bf16. What exactness costs is our time over this.
"""

import json
import sys

from peers import MODELS, median_ms

LAYERS = {"qwen3-0.6b": 28, "qwen3-8b": 36, "tiny": 2}


def main():
    shape, batch, context, device = (*sys.argv[1:], "cuda")[:4]
    try:
        import torch
    except ImportError:
        sys.exit("decode: no PyTorch for this Python")
    with torch.inference_mode():
        call = step(torch, shape, int(batch), int(context), device)
        us = 1e3 * median_ms(torch, graph(torch, call) if device == "cuda" else call, device)
    print(json.dumps({"library": "torch", "decode": [shape, int(batch), int(context)], "median_us": us, "torch": torch.__version__}))


def step(torch, shape, batch, context, device):
    """A function that turns a token of each sequence, which sees `context` keys, into the next."""
    (c, i, h, kv, d, v), f = MODELS[shape], torch.nn.functional
    bf16 = {"device": device, "dtype": torch.bfloat16}

    def weight(rows, columns):
        return torch.randn(rows, columns, **bf16) * columns**-0.5

    def layer():
        keys, values = (torch.randn(batch, kv, context, d, **bf16) for _ in range(2))
        weights = [weight(*size) for size in (((h + 2 * kv) * d, c), (c, h * d), (2 * i, c), (c, i))]
        return weights, keys, values

    layers, head = [layer() for _ in range(LAYERS[shape])], weight(v, c)
    of_width, of_head = torch.ones(c, **bf16), torch.ones(d, **bf16)
    cos, sin = (torch.rand(d // 2, **bf16) for _ in range(2))
    ids = torch.zeros(batch, device=device, dtype=torch.int64)

    def turned(x):
        a, b = f.rms_norm(x, (d,), of_head).chunk(2, -1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)

    def call():
        x = f.embedding(ids, head)
        for (qkv, out, gate_up, down), keys, values in layers:
            q, k, value = f.linear(f.rms_norm(x, (c,), of_width), qkv).view(batch, h + 2 * kv, 1, d).split((h, kv, kv), 1)
            keys[:, :, -1:].copy_(turned(k))
            values[:, :, -1:].copy_(value)
            seen = f.scaled_dot_product_attention(turned(q), keys, values, enable_gqa=True)
            x = x + f.linear(seen.reshape(batch, h * d), out)
            gate, up = f.linear(f.rms_norm(x, (c,), of_width), gate_up).chunk(2, -1)
            x = x + f.linear(f.silu(gate) * up, down)
        logits = f.linear(f.rms_norm(x, (c,), of_width), head).float()
        ids.copy_(logits.softmax(-1).argmax(-1))

    return call


def graph(torch, call):
    """The same from one CUDA graph."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    kept = torch.cuda.CUDAGraph()
    with torch.cuda.graph(kept):
        call()
    return kept.replay


if __name__ == "__main__":
    main()

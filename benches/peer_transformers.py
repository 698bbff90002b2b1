#!/usr/bin/env python3
"""The workloads of benches/decode.rs and benches/train_step.rs in transformers and torch, on the CPU.

usage: peer_transformers.py [--threads N] [--repeat R] [--matmul highest|medium|autocast] [CASE]
One JSON line a case: {"case", "matmul", "threads", "tok_per_s", "seconds", "seconds_min", "seconds_max", "torch", ...}.
highest is f32; medium is torch.set_float32_matmul_precision("medium"); autocast is torch.autocast to bf16.
Needs torch and transformers (5). Every option is the fastest we know of: scaled-dot-product attention, fused AdamW.
"""
import argparse
import contextlib
import json
import time

import torch
import transformers

SEQS, PROMPT, NEW, LEN = 64, 128, 64, 192


def tiny():
    config = transformers.Qwen3Config(
        vocab_size=2048, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, intermediate_size=384, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )
    torch.manual_seed(1)
    return transformers.Qwen3ForCausalLM(config).float()


def measure(case, tokens, repeat, matmul, run):
    autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16) if matmul == "autocast" else contextlib.nullcontext()
    seconds = []
    for _ in range(1 + repeat):
        start = time.perf_counter()
        with autocast():
            run()
        seconds.append(time.perf_counter() - start)
    seconds = seconds[1:]
    seconds.sort()
    median = seconds[len(seconds) // 2]
    print(json.dumps({
        "case": case, "matmul": matmul, "threads": torch.get_num_threads(), "tok_per_s": tokens / median, "seconds": median,
        "seconds_min": seconds[0], "seconds_max": seconds[-1],
        "torch": torch.__version__, "transformers": transformers.__version__,
    }), flush=True)


def decode(model, prompts):
    """64 sequences of which every 64 / prompts share a prompt; generate has no way to use that."""
    model.eval()
    ids = torch.randint(0, 2048, (prompts, PROMPT)).repeat(SEQS // prompts, 1)
    mask = torch.ones_like(ids)

    def run():
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                                 use_cache=True, min_new_tokens=NEW, max_new_tokens=NEW)
        assert out.shape == (SEQS, PROMPT + NEW)
    return run


def train_step(model):
    model.train()
    ids = torch.randint(0, 2048, (SEQS, LEN))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

    def run():
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--matmul", choices=["highest", "medium", "autocast"], default="highest")
    parser.add_argument("case", nargs="?", default="")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.matmul == "medium":
        torch.set_float32_matmul_precision("medium")
    cases = {
        "decode_distinct": (SEQS * NEW, lambda m: decode(m, SEQS)),
        "decode_groups": (SEQS * NEW, lambda m: decode(m, 8)),
        "train_step": (SEQS * LEN, train_step),
    }
    for case, (tokens, make) in cases.items():
        if args.case in case:
            measure(case, tokens, args.repeat, args.matmul, make(tiny()))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The workloads of benches/smollm2.rs in transformers and llama.cpp, on the CPU.

usage: peer_smollm2.py FOLDER [--peer transformers|llama.cpp] [--dtype f32|bf16|f16] [--gguf FILE] [--threads N] [--repeat R]
                       [--case CASE]
One JSON line a case: {"case", "peer", "dtype", "threads", "tok_per_s", "seconds", "seconds_min", "seconds_max", "version",
"rss_bytes"}. Needs torch and transformers (5), or llama-cpp-python and a GGUF of the dtype. transformers: scaled-dot-product
attention, fused AdamW. llama.cpp decodes one sequence; it trains nothing. The case `start` loads, makes one token and ends: who
starts this measures it.
"""
import argparse
import json
import time

PROMPT, NEW, LONG, SEQS, VOCAB = 32, 64, 512, 8, 49152


def rss():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])


def tell(args, version, case, tokens, seconds):
    seconds = sorted(seconds)
    median = seconds[len(seconds) // 2]
    print(json.dumps({
        "case": case, "peer": args.peer, "dtype": args.dtype, "threads": args.threads, "tok_per_s": tokens / median,
        "seconds": median, "seconds_min": seconds[0], "seconds_max": seconds[-1], "version": version, "rss_bytes": rss(),
    }), flush=True)


def timed(run, repeat):
    def once():
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    once()
    return [once() for _ in range(repeat)]


def transformers_cases(args):
    import torch
    import transformers
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[args.dtype]
    load = lambda: AutoModelForCausalLM.from_pretrained(args.folder, dtype=dtype)
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def decode(model, seqs):
        ids = torch.randint(0, VOCAB, (seqs, PROMPT))
        seconds = []
        with torch.inference_mode():
            for _ in range(1 + args.repeat):
                out = model(ids, use_cache=True)
                token = out.logits[:, -1:].argmax(-1)
                start = time.perf_counter()
                for _ in range(NEW):
                    out = model(token, past_key_values=out.past_key_values, use_cache=True)
                    token = torch.multinomial(torch.softmax(out.logits[:, -1].float(), -1), 1)
                seconds.append(time.perf_counter() - start)
        return seconds[1:]

    def first(model, n):
        with torch.inference_mode():
            model(torch.randint(0, VOCAB, (1, n)), use_cache=True, logits_to_keep=1).logits[0, -1].argmax().item()

    def train():
        model = load().train()
        ids = torch.randint(0, VOCAB, (SEQS, LONG))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

        def step():
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return timed(step, args.repeat)

    if args.case == "start":
        return first(load().eval(), PROMPT)
    wanted = lambda case: args.case in case
    if any(map(wanted, ["decode_1", "decode_16", "prefill_512"])):
        model = load().eval()
        for seqs in (1, 16):
            if wanted(f"decode_{seqs}"):
                tell(args, version, f"decode_{seqs}", seqs * NEW, decode(model, seqs))
        if wanted("prefill_512"):
            tell(args, version, "prefill_512", LONG, timed(lambda: first(model, LONG), args.repeat))
        del model
    if wanted("load"):
        tell(args, version, "load", 1, timed(lambda: first(load().eval(), PROMPT), args.repeat))
    if wanted("train_8x512"):
        tell(args, version, "train_8x512", SEQS * LONG, train())


def llama_cases(args):
    import random
    import llama_cpp
    from llama_cpp import Llama
    load = lambda: Llama(args.gguf, n_ctx=1024, n_threads=args.threads, n_threads_batch=args.threads, verbose=False)
    ids = lambda n: [random.randrange(VOCAB) for _ in range(n)]
    version = f"llama-cpp-python {llama_cpp.__version__}"

    def first(model, n):
        model.reset()
        model.eval(ids(n))
        model.sample(temp=0.0)

    def decode(model):
        seconds = []
        for _ in range(1 + args.repeat):
            first(model, PROMPT)
            start = time.perf_counter()
            for _ in range(NEW):
                model.eval([model.sample(temp=1.0)])
            seconds.append(time.perf_counter() - start)
        return seconds[1:]

    model = load()
    if args.case == "start":
        return first(model, PROMPT)
    if args.case in "decode_1":
        tell(args, version, "decode_1", NEW, decode(model))
    if args.case in "prefill_512":
        tell(args, version, "prefill_512", LONG, timed(lambda: first(model, LONG), args.repeat))
    del model
    if args.case in "load":
        tell(args, version, "load", 1, timed(lambda: first(load(), PROMPT), args.repeat))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--peer", choices=["transformers", "llama.cpp"], default="transformers")
    parser.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="f32")
    parser.add_argument("--gguf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--case", default="")
    args = parser.parse_args()
    {"transformers": transformers_cases, "llama.cpp": llama_cases}[args.peer](args)


if __name__ == "__main__":
    main()

"""Holds an adapter that haggle trained against peft: its folder loads as it is, and computes the same logprobs.

    haggle train --model BASE --lora rank=4,alpha=6 --steps 2 --out run
    haggle score --model run --input ids.jsonl > scores.jsonl
    haggle merge run --out whole
    python tools/check_peft.py BASE run/checkpoints/step-000002 ids.jsonl scores.jsonl [whole]

Needs torch, transformers and peft. Every tensor of the adapter has its place in peft's model, and none of peft's is left at
its first value. Logprobs: at most twice as far from peft in f64 as peft's own f32 is. The merged folder: every tensor within
one rounding to f32 of peft's merge in f64.
"""

import sys

if {"-h", "--help"} & set(sys.argv):
    print(__doc__)
    sys.exit()

import json
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def adapted(base, adapter, dtype):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).to(dtype).eval()


def check_names(model, adapter):
    mine = load_file(Path(adapter) / "adapter_model.safetensors")
    theirs = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}
    assert mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
    assert all(torch.equal(t, theirs[n]) for n, t in mine.items())
    print(f"{len(mine)} tensors, each where peft has it")


def logprobs(model, ids):
    with torch.no_grad():
        return model(ids[None]).logits[0].double().log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]


def check_scores(models, path, scores):
    worst = [0.0, 0.0]
    for line, score in zip(open(path, encoding="utf-8"), open(scores, encoding="utf-8"), strict=True):
        ids = torch.tensor(json.loads(line)["ids"])
        f32, f64 = (logprobs(model, ids) for model in models)
        got = torch.tensor(json.loads(score)["logprobs"][1:], dtype=torch.float64)
        worst = [max(w, float((x - f64).abs().max())) for w, x in zip(worst, [got, f32])]
    print(f"logprobs, at most: haggle from f64 {worst[0]:.1e}, peft in f32 from f64 {worst[1]:.1e}")
    assert worst[0] <= 2 * worst[1]


def check_merged(model, folder):
    mine, theirs = load_file(Path(folder) / "model.safetensors"), model.merge_and_unload().state_dict()
    worst = 0.0
    for name, tensor in mine.items():
        want = theirs[name]
        spacing = torch.finfo(torch.float32).eps * want.abs().clamp_min(torch.finfo(torch.float32).tiny)
        worst = max(worst, float(((tensor.double() - want).abs() / spacing).max()))
    print(f"{len(mine)} merged tensors, at most {worst:.2f} of eps from peft's in f64")
    assert worst <= 0.5 + 1e-6


def main():
    base, adapter, ids, scores, *merged = sys.argv[1:]
    models = [adapted(base, adapter, dtype) for dtype in (torch.float32, torch.float64)]
    check_names(models[0], adapter)
    check_scores(models, ids, scores)
    if merged:
        check_merged(models[1], merged[0])


if __name__ == "__main__":
    main()

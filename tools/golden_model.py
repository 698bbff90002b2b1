"""Makes tests/goldens/{tied,untied,bf16,llama,qwen2,...}: small random models of each family, and what `transformers`
computes with them.

    python tools/golden_model.py tests/goldens [FOLDER ...]

Needs torch and transformers (any CPU build). Each folder holds the checkpoint as transformers saves it (bf16 weights,
so that widening is tested too), golden.safetensors (logits of every token, gradient of every tensor) and golden.json
(producer, versions, seed, sequences, loss weights, greedy continuation). Numbers are computed in f64 and stored in
f32; the floors are how far transformers in f32 (for `bf16`, in bf16), on one thread, is from them.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

SEED = 20240611
LENGTHS = [3, 20, 37]  # one beyond a chunk of 32 keys
GREEDY_PROMPT, GREEDY_NEW = 12, 64


F32, BF16 = torch.float32, torch.bfloat16
# Long and short waves and some between, at the lengths of the sequences.
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
# Folder: family, whether the head is tied, what the floor is computed in, and sizes that differ from those below. Odd
# shapes: widths that are no multiple of a tile, more heads than the width has room for, one key head.
MODELS = {
    "tied": ("qwen3", True, F32, {}), "untied": ("qwen3", False, F32, {}), "bf16": ("qwen3", True, BF16, {"head_dim": 32}),
    "llama": ("llama", False, F32, {"hidden_size": 36, "num_attention_heads": 6, "head_dim": 6, "num_key_value_heads": 3,
                                    "rope_parameters": LLAMA3, "rms_norm_eps": 1e-5}),
    "llama_bf16": ("llama", True, BF16, {"head_dim": 32, "num_key_value_heads": 1, "rope_parameters": LLAMA3}),
    "qwen2": ("qwen2", True, F32, {"hidden_size": 42, "num_attention_heads": 7, "num_key_value_heads": 1,
                                   "intermediate_size": 50}),
    "moe": ("qwen3_moe", False, F32, EXPERTS | {"hidden_size": 36, "head_dim": 6}),
    "moe_bf16": ("qwen3_moe", True, BF16, EXPERTS | {"hidden_size": 32, "head_dim": 32, "norm_topk_prob": False}),
    "qwen2_bf16": ("qwen2", False, BF16, {"hidden_size": 64, "num_attention_heads": 2,
                                             "num_key_value_heads": 1}),
}


def build(family, tied, sizes):
    torch.manual_seed(SEED + tied)
    config = AutoConfig.for_model(family, **({
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 96, "tie_word_embeddings": tied, "eos_token_id": 63,
        "bos_token_id": None, "pad_token_id": 62, "rms_norm_eps": 1e-6, "initializer_range": 0.15,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    } | ({"head_dim": 8} if family.startswith("qwen3") else {}) | sizes))
    config._experts_implementation = "eager"  # the fused one knows no f64
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:  # norms other than one, biases other than zero, so that a mixed-up one shows
                p.uniform_(*((-0.5, 0.5) if name.endswith("bias") else (0.5, 1.5)))
            p.copy_(p.bfloat16().float())  # parameters only: rounding the module would round the rotary frequencies
    return model


def sequences(tied):
    g = torch.Generator().manual_seed(SEED + 10 + tied)
    seqs = [torch.randint(0, 62, (n,), generator=g).tolist() for n in LENGTHS]
    weights = [[0.0] + [(i % 4) / 8 for i in range(1, n)] for n in LENGTHS]
    return seqs, weights


def by_tensor(name, x):
    """A parameter under the names it has in files: transformers holds all experts of a layer as one."""
    if name.endswith("experts.gate_up_proj"):
        for e, both in enumerate(x):
            gate, up = both.chunk(2)
            yield name.replace("gate_up_proj", f"{e}.gate_proj.weight"), gate.contiguous()
            yield name.replace("gate_up_proj", f"{e}.up_proj.weight"), up.contiguous()
    elif name.endswith("experts.down_proj"):
        for e, down in enumerate(x):
            yield name.replace("down_proj", f"{e}.down_proj.weight"), down.contiguous()
    else:
        yield name, x


def evaluate(model, seqs, weights):
    """Logits of all tokens [N, V]; gradients of sum_i weight_i * -logprob(token_i), by name; that sum's terms."""
    model.zero_grad()
    logits, terms = [], []
    for ids, w in zip(seqs, weights):
        z = model(torch.tensor([ids])).logits[0]
        lp = torch.log_softmax(z, -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        terms.append(-lp * torch.tensor(w[1:], dtype=lp.dtype))
        logits.append(z.detach())
    terms = torch.cat(terms)
    terms.sum().backward()
    return torch.cat(logits), {n: g.clone() for name, p in model.named_parameters() if p.grad is not None for n, g in by_tensor(name, p.grad)}, terms.detach().double()


def greedy(model, prompt):
    ids, margin = list(prompt), float("inf")
    for _ in range(GREEDY_NEW):
        z = model(torch.tensor([ids])).logits[0, -1]
        top = torch.topk(z, 2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))
    assert margin > 1e-3, f"a near tie ({margin}) makes the greedy golden fragile: take another seed"
    return ids[len(prompt):], margin


def in_f64(family, tied, sizes, wrap=lambda model: model):
    """The same model, wrapped, wholly in f64. transformers computes norms, softmax and angles in f32 whatever the weights are;
    here, while it runs, its f32 is f64."""
    model = build(family, tied, sizes).double()
    rotary = model.model.rotary_emb
    if model.config.rope_parameters["rope_type"] == "default":
        d = 2 * len(rotary.inv_freq)
        rotary.inv_freq = 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    else:  # scaled frequencies are f32 numbers by definition
        rotary.inv_freq = build(family, tied, sizes).model.rotary_emb.inv_freq.double()
    saved = torch.float32, torch.Tensor.float
    torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
    try:
        return evaluate(wrap(model), *sequences(tied))
    finally:
        torch.float32, torch.Tensor.float = saved


def main(out, *names):
    torch.set_num_threads(1)
    for name in names or MODELS:
        family, tied, floor_in, sizes = MODELS[name]
        folder = Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        build(family, tied, sizes).to(torch.bfloat16).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        model = build(family, tied, sizes)
        for p in model.parameters():  # not the module: its rotary frequencies stay f32
            p.data = p.data.to(floor_in)
        seqs, weights = sequences(tied)
        logits, grads, terms = evaluate(model, seqs, weights)
        with torch.no_grad():
            new, margin = greedy(build(family, tied, sizes), seqs[2][:GREEDY_PROMPT])
        z64, g64, terms64 = in_f64(family, tied, sizes)
        relative = lambda a, b: float((a.double() - b).norm() / b.norm())
        golden = {"logits": z64} | {f"grad.{n}": g for n, g in g64.items()}
        save_file({n: t.to(torch.float32) for n, t in golden.items()}, folder / "golden.safetensors")
        (folder / "golden.json").write_text(json.dumps({
            "producer": "tools/golden_model.py",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "seed": SEED, "sequences": seqs, "loss_weights": weights, "loss": float(terms64.sum()),
            "greedy_prompt": seqs[2][:GREEDY_PROMPT], "greedy": new, "greedy_margin": margin,
            # Of its terms: in their sum errors cancel by luck.
            "floor_loss_relative": float((terms - terms64).abs().sum() / terms64.sum()),
            "floor_logits_max_abs": float((logits.double() - z64).abs().max()),
            "floor_grad_relative_norm": max(relative(g, g64[n]) for n, g in grads.items()),
        }, indent=1) + "\n")
        print(folder, "loss", float(terms64.sum()), "margin", margin)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Makes tests/goldens/{tied,untied,bf16}: a small random Qwen3 and what `transformers` computes with it.

    python tools/golden_model.py tests/goldens

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
from transformers import Qwen3Config, Qwen3ForCausalLM

SEED = 20240611
LENGTHS = [3, 20, 37]  # one beyond a chunk of 32 keys
GREEDY_PROMPT, GREEDY_NEW = 12, 24


# Folder: whether the head is tied, head dim, what the floor is computed in.
MODELS = {"tied": (True, 8, torch.float32), "untied": (False, 8, torch.float32), "bf16": (True, 32, torch.bfloat16)}


def build(tied, head_dim):
    torch.manual_seed(SEED + tied)
    config = Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=head_dim, max_position_embeddings=64, tie_word_embeddings=tied, eos_token_id=63,
        bos_token_id=None, pad_token_id=62, rms_norm_eps=1e-6, initializer_range=0.15,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:  # norms other than one, so that a mixed-up norm shows
                p.uniform_(0.5, 1.5)
            p.copy_(p.bfloat16().float())  # parameters only: rounding the module would round the rotary frequencies
    return model


def sequences(tied):
    g = torch.Generator().manual_seed(SEED + 10 + tied)
    seqs = [torch.randint(0, 62, (n,), generator=g).tolist() for n in LENGTHS]
    weights = [[0.0] + [(i % 4) / 8 for i in range(1, n)] for n in LENGTHS]
    return seqs, weights


def evaluate(model, seqs, weights):
    """Logits of all tokens [N, V]; gradients of sum_i weight_i * -logprob(token_i), by name."""
    model.zero_grad()
    logits, loss = [], 0.0
    for ids, w in zip(seqs, weights):
        z = model(torch.tensor([ids])).logits[0]
        lp = torch.log_softmax(z, -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        loss = loss - (lp * torch.tensor(w[1:], dtype=lp.dtype)).sum()
        logits.append(z.detach())
    loss.backward()
    return torch.cat(logits), {n: p.grad.clone() for n, p in model.named_parameters()}, float(loss.detach())


def greedy(model, prompt):
    ids, margin = list(prompt), float("inf")
    for _ in range(GREEDY_NEW):
        z = model(torch.tensor([ids])).logits[0, -1]
        top = torch.topk(z, 2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))
    assert margin > 1e-3, f"a near tie ({margin}) makes the greedy golden fragile: take another seed"
    return ids[len(prompt):], margin


def in_f64(tied, head_dim):
    """The same model wholly in f64. transformers computes norms, softmax and angles in f32 whatever the weights are;
    here, while it runs, its f32 is f64."""
    model = build(tied, head_dim).double()
    d = model.config.head_dim
    model.model.rotary_emb.inv_freq = 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    saved = torch.float32, torch.Tensor.float
    torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
    try:
        return evaluate(model, *sequences(tied))
    finally:
        torch.float32, torch.Tensor.float = saved


def main(out):
    torch.set_num_threads(1)
    for name, (tied, head_dim, floor_in) in MODELS.items():
        folder = Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        build(tied, head_dim).to(torch.bfloat16).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        model = build(tied, head_dim)
        for p in model.parameters():  # not the module: its rotary frequencies stay f32
            p.data = p.data.to(floor_in)
        seqs, weights = sequences(tied)
        logits, grads, loss = evaluate(model, seqs, weights)
        with torch.no_grad():
            new, margin = greedy(build(tied, head_dim), seqs[2][:GREEDY_PROMPT])
        z64, g64, loss64 = in_f64(tied, head_dim)
        relative = lambda a, b: float((a.double() - b).norm() / b.norm())
        golden = {"logits": z64} | {f"grad.{n}": g for n, g in g64.items()}
        save_file({n: t.to(torch.float32) for n, t in golden.items()}, folder / "golden.safetensors")
        (folder / "golden.json").write_text(json.dumps({
            "producer": "tools/golden_model.py",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "seed": SEED, "sequences": seqs, "loss_weights": weights, "loss": loss64,
            "greedy_prompt": seqs[2][:GREEDY_PROMPT], "greedy": new, "greedy_margin": margin,
            "floor_loss_relative": abs(loss / loss64 - 1),
            "floor_logits_max_abs": float((logits.double() - z64).abs().max()),
            "floor_grad_relative_norm": max(relative(g, g64[n]) for n, g in grads.items()),
        }, indent=1) + "\n")
        print(folder, "loss", loss64, "margin", margin)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Makes tests/goldens/lora_{llama,qwen2_bf16,moe}: adapters as `peft` saves them over the models of those goldens, and
what `peft` computes with them.

    python tools/golden_lora.py tests/goldens [FOLDER ...]

Needs torch, transformers and peft (any CPU build). Each folder holds the adapter and, like the goldens of
tools/golden_model.py, whose sequences and losses these are, golden.safetensors (logits, gradient of every lora_A and
lora_B) and golden.json. Numbers are computed in f64 and stored in f32; the floors are how far peft in f32, or where
the model is bf16 in bf16, is from them.
"""

import json
import sys
from pathlib import Path

import peft
import torch
import transformers
from golden_model import MODELS, SEED, build, evaluate, in_f64, sequences
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Folder: the model under it, and what the adapter is. Odd ranks, factors that are no power of two, some targets alone.
ADAPTERS = {
    "lora_llama": ("llama", {"r": 5, "lora_alpha": 8, "target_modules": ALL}),
    "lora_qwen2_bf16": ("qwen2_bf16", {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj", "down_proj"],
                                       "use_rslora": True}),
    "lora_moe": ("moe", {"r": 2, "lora_alpha": 3, "target_modules": ALL[:4]}),
}


def adapted(model, sizes, seed=SEED):
    """The model with an adapter whose A and B are of a size that shows, and numbers of bf16."""
    lora = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **sizes), autocast_adapter_dtype=False)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(lora.named_parameters()):
            if p.requires_grad:
                p.copy_((0.4 * torch.rand(p.shape, generator=g) - 0.2).bfloat16().to(p.dtype))
    return lora


def saved_name(name):
    return name.replace(".default", "")


def main(out, *names):
    torch.set_num_threads(1)
    for name in names or ADAPTERS:
        base, sizes = ADAPTERS[name]
        family, tied, floor_in, shape = MODELS[base]
        folder = Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        lora = adapted(build(family, tied, shape), sizes)
        lora.peft_config["default"].base_model_name_or_path = str(Path(out) / base)
        lora.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        for p in lora.parameters():  # not the module: its rotary frequencies stay f32
            p.data = p.data.to(floor_in)
        seqs, weights = sequences(tied)
        logits, grads, terms = evaluate(lora, seqs, weights)
        z64, g64, terms64 = in_f64(family, tied, shape, lambda model: adapted(model, sizes))
        relative = lambda a, b: float((a.double() - b).norm() / b.norm())
        golden = {"logits": z64} | {f"grad.{saved_name(n)}": g for n, g in g64.items()}
        save_file({n: t.to(torch.float32).contiguous() for n, t in golden.items()}, folder / "golden.safetensors")
        (folder / "golden.json").write_text(json.dumps({
            "producer": "tools/golden_lora.py",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
            "seed": SEED, "sequences": seqs, "loss_weights": weights, "loss": float(terms64.sum()),
            "floor_loss_relative": float((terms - terms64).abs().sum() / terms64.sum()),
            "floor_logits_max_abs": float((logits.double() - z64).abs().max()),
            "floor_grad_relative_norm": max(relative(g, g64[n]) for n, g in grads.items()),
        }, indent=1) + "\n")
        print(folder, "loss", float(terms64.sum()))


if __name__ == "__main__":
    main(*sys.argv[1:])

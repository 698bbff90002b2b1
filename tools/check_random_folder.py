"""Holds a folder of random weights against transformers: every tensor is found, none is left over, and it computes.

    haggle init --preset qwen3-30b-a3b --layers 2 --experts 8 --out cut
    python tools/check_random_folder.py cut

Needs transformers and torch.
"""

import sys

if {"-h", "--help"} & set(sys.argv):
    print(__doc__)
    sys.exit()


import torch
from transformers import AutoModelForCausalLM


def main(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    wrong = {key: found for key, found in info.items() if found}
    assert not wrong, wrong
    with torch.no_grad():
        logits = model(torch.arange(1, 17)[None]).logits
    assert torch.isfinite(logits).all()
    params = sum(p.numel() for p in model.parameters())
    print(f"{folder}: {type(model).__name__}, {params} parameters, {model.dtype}: loads whole and computes")


if __name__ == "__main__":
    main(*sys.argv[1:])

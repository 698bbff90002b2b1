"""Holds a haggle model folder against transformers: token ids of dialogues, and logprobs of every token.

    haggle init --preset tiny --out base --dialogues 1000
    haggle score --model base --input base/haggle/dialogues.jsonl > scores.jsonl     (optional)
    python tools/check_transformers.py base base/haggle/dialogues.jsonl [scores.jsonl]

Needs transformers, and torch when scores are given. Ids: the chat template of the folder, rendered and tokenised by
transformers, against the ids haggle trains on; and back to text. Logprobs: f32 logits, within 1e-4.
"""

import json
import sys

from transformers import AutoTokenizer


def check_ids(tokenizer, lines):
    for n, line in enumerate(lines, 1):
        text = tokenizer.apply_chat_template(line["messages"], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == line["ids"], f"line {n}: {text!r}\n{ids}\n{line['ids']}"
        assert tokenizer.decode(ids) == text, f"line {n}: {tokenizer.decode(ids)!r} is not {text!r}"
    print(f"{len(lines)} sequences, {sum(len(x['ids']) for x in lines)} tokens: the same ids, and back to the same text")


def check_scores(folder, lines, scores):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    worst = 0.0
    with torch.no_grad():
        for line, score in zip(lines, scores):
            ids = torch.tensor(line["ids"])
            logprobs = model(ids[None]).logits[0].double().log_softmax(-1)
            want = logprobs[:-1].gather(1, ids[1:, None])[:, 0]
            got = torch.tensor(score["logprobs"][1:], dtype=torch.float64)
            worst = max(worst, (want - got).abs().max().item())
    print(f"{len(scores)} sequences: logprobs differ by at most {worst:.2e}")
    assert worst < 1e-4


def main():
    folder, path, *rest = sys.argv[1:]
    lines = [json.loads(line) for line in open(path, encoding="utf-8")]
    check_ids(AutoTokenizer.from_pretrained(folder), lines)
    if rest:
        scores = [json.loads(line) for line in open(rest[0], encoding="utf-8")]
        check_scores(folder, lines[: len(scores)], scores)


if __name__ == "__main__":
    main()

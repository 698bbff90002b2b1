"""Holds a haggle model folder against transformers: token ids of dialogues, and logprobs of every token.

    haggle init --preset tiny --out base --dialogues 1000
    haggle score --model base --input base/haggle/dialogues.jsonl > scores.jsonl     (optional)
    python tools/check_transformers.py base base/haggle/dialogues.jsonl [scores.jsonl]
    python tools/check_transformers.py base base/haggle/dialogues.jsonl --golden tests/goldens/text/dialogues.jsonl

Needs transformers, and torch when scores are given. Ids: the chat template of the folder, rendered and tokenised by
transformers, against the ids haggle trains on; and back to text. Logprobs: those of the side's own replies within 1e-4
of transformers in f32. What the other side says and the prompt, never trained on, holds a few tokens that f32 itself
cannot give to 1e-4: there the floor is what transformers' f32 is off its own f64, and haggle stays within twice that.
--golden writes a few dialogues, and some odd text, with the ids transformers gives them: tests/text/golden.rs.
"""

import sys

if {"-h", "--help"} & set(sys.argv):
    print(__doc__)
    sys.exit()

import json

import transformers
from transformers import AutoTokenizer

ODD = ["Café ☕ 日本 e\u0301\u200d", "  two  spaces\n\n and\ttabs", "55% 55 % 1,234.50 $7.07(1x", "'s I'll ﬀ ½ ²", "[BUY] [DEAL]\nTalk:"]


def ids_of(tokenizer, messages):
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return text, tokenizer(text, add_special_tokens=False)["input_ids"]


def check_ids(tokenizer, lines):
    for n, line in enumerate(lines, 1):
        text, ids = ids_of(tokenizer, line["messages"])
        assert ids == line["ids"], f"line {n}: {text!r}\n{ids}\n{line['ids']}"
        assert tokenizer.decode(ids) == text, f"line {n}: {tokenizer.decode(ids)!r} is not {text!r}"
    print(f"{len(lines)} sequences, {sum(len(x['ids']) for x in lines)} tokens: the same ids, and back to the same text")


def write_golden(tokenizer, lines, path):
    odd = [{"role": role, "content": text} for text in ODD for role in ("user", "assistant")]
    picked = [line["messages"] for line in lines[:12]] + [[{"role": "system", "content": "odd"}, *odd]]
    with open(path, "w", encoding="utf-8") as out:
        for messages in picked:
            row = {"messages": messages, "ids": ids_of(tokenizer, messages)[1], "by": f"transformers {transformers.__version__}"}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def own(ids, assistant, end):
    """True for each token after the first that stands in a reply."""
    inside, flags = False, []
    for here, following in zip(ids, ids[1:]):
        inside = inside or here == assistant
        flags.append(inside)
        inside = inside and following != end
    return flags


def check_scores(folder, tokenizer, lines, scores):
    import torch
    from transformers import AutoModelForCausalLM

    marks = [tokenizer.convert_tokens_to_ids(t) for t in ("<|assistant|>", "<|end|>")]
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def logprobs(model, ids):
        with torch.no_grad():
            return model(ids[None]).logits[0].double().log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]

    rows = []
    for line, score in zip(lines, scores):
        ids = torch.tensor(line["ids"])
        f32, f64 = logprobs(model, ids), logprobs(exact, ids)
        got = torch.tensor(score["logprobs"][1:], dtype=torch.float64)
        columns = [(got - f32).abs(), (got - f64).abs(), (f32 - f64).abs()]
        rows += zip(*(c.tolist() for c in columns), own(line["ids"], *marks))
    for name, mine in (("own replies", True), ("the rest", False)):
        found = [row[:3] for row in rows if row[3] == mine]
        worst = [max(column) for column in zip(*found)]
        print(f"{name}: {len(found)} tokens, at most: haggle from f32 {worst[0]:.1e}, haggle from f64 {worst[1]:.1e},"
              f" f32 from f64 {worst[2]:.1e}; haggle from f32 above 1e-4: {sum(d[0] > 1e-4 for d in found)}")
        assert worst[0] < 1e-4 if mine else worst[1] <= 2 * worst[2]


def main():
    folder, path, *rest = sys.argv[1:]
    lines = [json.loads(line) for line in open(path, encoding="utf-8")]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if rest[:1] == ["--golden"]:
        return write_golden(tokenizer, lines, rest[1])
    check_ids(tokenizer, lines)
    if rest:
        check_scores(folder, tokenizer, lines, [json.loads(line) for line in open(rest[0], encoding="utf-8")])


if __name__ == "__main__":
    main()

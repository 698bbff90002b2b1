"""Makes tests/goldens/smollm2.json: what transformers says with SmolLM2-135M-Instruct, in f32.

    tools/get_smollm2 && python tools/golden_smollm2.py target/smollm2 TEXT tests/goldens/smollm2.json

Needs torch and transformers. Greedy replies to twenty prompts of up to 48 tokens, by ids, each cut before a choice closer
than 1e-3 (there f32 does not say which token is the larger one); and the logprobs of the first 2,000 tokens of a text.
"""

import json
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW, TOKENS, CLOSE = 48, 2000, 1e-3
PROMPTS = [
    "What is the capital of France?", "Name three fruits.", "Write a short poem about the sea.", "What is 12 plus 7?",
    "Translate to Spanish: good morning.", "Why is the sky blue?", "Give me a tip for haggling at a market.",
    "I offer $45 for the lamp. What do you say?", "List the planets.", "Who wrote Hamlet?", "Say hello.",
    "Explain what a budget is.", "How do I boil an egg?", "What rhymes with 'cat'?", "Define 'reservation price'.",
    "Summarise: The shop sells lamps. They cost $60.", "Is 17 a prime number?", "Write a Python function that adds two numbers.",
    "Schreibe einen Satz auf Deutsch.", "Café ☕ or tea?",
]


def greedy(model, ids, end):
    new, closest = [], float("inf")
    out = model(torch.tensor([ids]), use_cache=True)
    while len(new) < NEW:
        top = torch.topk(out.logits[0, -1], 2)
        margin = float(top.values[0] - top.values[1])
        if margin < CLOSE:
            break
        closest = min(closest, margin)
        new.append(int(top.indices[0]))
        if new[-1] == end:
            break
        out = model(torch.tensor([new[-1:]]), past_key_values=out.past_key_values, use_cache=True)
    return new, closest


@torch.no_grad()
def main(folder, text, to):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    replies = []
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        new, closest = greedy(model, ids, tokenizer.eos_token_id)
        replies.append({"prompt": prompt, "ids": ids, "reply": new, "text": tokenizer.decode(new), "closest": closest})
        print(prompt, "->", repr(replies[-1]["text"]), closest)
    ids = tokenizer(open(text, encoding="utf-8").read())["input_ids"][:TOKENS]
    logits = model(torch.tensor([ids])).logits[0, :-1].double()
    logprobs = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    golden = {
        "producer": "tools/golden_smollm2.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "replies": replies, "ids": ids, "logprobs": [round(x, 6) for x in logprobs.tolist()],
    }
    with open(to, "w", encoding="utf-8") as out:
        json.dump(golden, out, ensure_ascii=False)
        out.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

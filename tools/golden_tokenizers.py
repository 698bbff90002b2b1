#!/usr/bin/env python3
"""What transformers makes of text with published tokenizers: tests/goldens/text/{encodings,conversations}.json.

    pip install transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6
    tools/get_tokenizers && tools/get_smollm2
    tools/golden_tokenizers.py

Encodings: STRINGS random strings a tokenizer, made by the rule of `any_text`, which tests/text/published.rs has too; of each
100 of them one hash of their ids, of their ids where special tokens are plain text, and of the ids' text; and as many hashes
of the text of ids that no text has. Conversations: what `apply_chat_template` renders of each, null where it refuses, and a
hash of its ids.
"""
import importlib.metadata
import json
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
GOLDENS = ROOT / "tests/goldens/text"
FOLDERS = {"qwen3": "tokenizers/qwen3", "llama3_1": "tokenizers/llama3_1", "smollm2": "smollm2"}
SEED, STRINGS, BLOCK = 20_260_105, 10_000, 100

# Pieces that tokenizers, normalisers and their regular expressions treat in ways of their own.
PIECES = [
    " ", "  ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b", "\ufeff", "\u0000",
    "'s", "'S", "'ll", "'LL", "'ſ", "\u2019s", "don't", "I'm", "1", "12", "123", "1234", "$1,234.50", "１２３", "٣", "½", "Ⅷ",
    "e\u0301", "é", "ﬁ", "Å", "K", "Ω", "가", "\u1112\u1161\u11ab", "豈", "İ", "ß", "ǆ",
    "日本語", "中文，", "한국어", "ภาษาไทย", "हिन्दी", "العربية", "עברית", "русский", "ελληνικά", "नमस्ते",
    "👍🏽", "👩\u200d👩\u200d👧", "🇩🇪", "☕\ufe0f", "\U0001d4d0", "\U000e0041", "\U00020bb7",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|reserved_special_token_7|>",
    "<think>", "</think>", "<tool_call>", "<|im_start", "|>", "<|", "the", " the", "Hello", " world", "negotiate", "http://a.b/c?d=1",
    "def f(x):\n    return x", "...", "!!", "==", "#", "{\"a\": [1]}", "\\n", "A", "z", "_", "-",
]


def mixed(x):
    """splitmix64's output for the state x."""
    x = (x + 0x9E3779B97F4A7C15) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return x ^ (x >> 31)


def draw(i, j, n):
    """A whole number below n: number j of string i."""
    return mixed(mixed(SEED + i) + j) % n


def any_text(i):
    text = ""
    for j in range(1, 2 + draw(i, 0, 40)):
        kind, which = draw(i, 3 * j, 8), lambda n: draw(i, 3 * j + 1, n)
        code = [None, None, None, which(0x80), which(0x250), which(0x3000), which(0x10000), which(0x20000)][kind]
        if code is None:
            text += PIECES[which(len(PIECES))]
        elif not 0xD800 <= code < 0xE000:
            text += chr(code)
    return text


def any_ids(i, end):
    return [draw(i, 1000 + j, end) for j in range(1 + draw(i, 999, 20))]


class Hash:
    """FNV-1a, 64 bits."""

    def __init__(self):
        self.state = 0xCBF29CE484222325

    def bytes(self, data):
        for byte in data:
            self.state = ((self.state ^ byte) * 0x100000001B3) & (2**64 - 1)

    def number(self, n):
        self.bytes(n.to_bytes(4, "little"))

    def ids(self, ids):
        self.number(len(ids))
        for id in ids:
            self.number(id)

    def text(self, text):
        data = text.encode()
        self.number(len(data))
        self.bytes(data)

    def hex(self):
        return f"{self.state:016x}"


def encodings(tokenizer):
    backend = tokenizer.backend_tokenizer
    end = max(tokenizer.get_vocab().values()) + 1
    decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    blocks = {"ids": [], "plain_ids": [], "text": [], "text_of_any_ids": []}
    for start in range(0, STRINGS, BLOCK):
        hashes = {name: Hash() for name in blocks}
        for i in range(start, start + BLOCK):
            text = any_text(i)
            ids = tokenizer(text, add_special_tokens=False).input_ids
            hashes["ids"].ids(ids)
            hashes["text"].text(decode(ids))
            hashes["text_of_any_ids"].text(decode(any_ids(i, end)))
            backend.encode_special_tokens = True
            hashes["plain_ids"].ids(backend.encode(text, add_special_tokens=False).ids)
            backend.encode_special_tokens = False
        for name, h in hashes.items():
            blocks[name].append(h.hex())
    first = tokenizer("Hello").input_ids
    return {"id_end": end, "input": first, **blocks}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_price", "description": "Price of a <thing> & \"more\" in €.",
        "parameters": {
            "type": "object", "required": ["name"],
            "properties": {"name": {"type": "string", "description": "Its naïve name"}, "n": {"type": "integer", "minimum": 1}},
        },
    },
}
CALL = {"type": "function", "function": {"name": "get_price", "arguments": {"name": "Fahrrad ü", "n": 2, "new": True, "x": 1.5, "y": None}}}


def said(*turns):
    return [{"role": role, **(content if isinstance(content, dict) else {"content": content})} for role, content in turns]


CONVERSATIONS = [
    {"name": "a question", "messages": said(("user", "Hi"))},
    {"name": "system", "messages": said(("system", "You buy.\nBudget: $12.50"), ("user", "turn 1/6"))},
    {"name": "system alone", "messages": said(("system", "You buy."))},
    {"name": "turns", "messages": said(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e"))},
    {"name": "ended by a reply", "messages": said(("system", "s"), ("user", "a"), ("assistant", "b")), "add_generation_prompt": False},
    {"name": "thoughts", "messages": said(
        ("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c"),
        ("assistant", "<think>\n\n so \n</think>\n\n d \n"), ("user", "e"))},
    {"name": "thoughts to the end", "messages": said(("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb")), "add_generation_prompt": False},
    {"name": "thoughts apart", "messages": said(
        ("user", "a"), ("assistant", {"content": "b", "reasoning_content": "\nhm\n"}), ("user", "c"),
        ("assistant", {"content": "d", "reasoning_content": "so"})), "add_generation_prompt": False},
    {"name": "no thinking", "messages": said(("user", "a")), "more": {"enable_thinking": False}},
    {"name": "thinking", "messages": said(("system", "s"), ("user", "a")), "more": {"enable_thinking": True}},
    {"name": "tools", "messages": said(("user", "What is it?")), "tools": [WEATHER]},
    {"name": "tools with a system", "messages": said(("system", " You buy. "), ("user", "What is it?")), "tools": [WEATHER, WEATHER]},
    {"name": "a call", "messages": said(
        ("user", "What is it?"), ("assistant", {"content": "", "tool_calls": [CALL]}), ("tool", {"content": "{\"price\": 12.5}", "name": "get_price"})),
     "tools": [WEATHER]},
    {"name": "a call with words", "messages": said(
        ("user", "What?"), ("assistant", {"content": "I look.", "tool_calls": [CALL["function"]]}), ("tool", "12"), ("assistant", "It is 12."), ("user", "ok"))},
    {"name": "two calls", "messages": said(
        ("user", "What?"), ("assistant", {"content": "", "tool_calls": [CALL, CALL]}), ("tool", "12"), ("tool", "13")), "tools": [WEATHER]},
    {"name": "a call without content", "messages": said(("user", "a"), ("assistant", {"tool_calls": [CALL]}), ("tool", "1")), "tools": [WEATHER]},
    {"name": "a call of text", "messages": said(
        ("user", "a"), ("assistant", {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": 1}"}}]}), ("tool", "1")), "tools": [WEATHER]},
    {"name": "tools told to the user", "messages": said(("system", "s"), ("user", " a ")), "tools": [WEATHER], "more": {"tools_in_user_message": False}},
    {"name": "a date", "messages": said(("user", "a")), "more": {"date_string": "5 Jan 2026"}},
    {"name": "Unicode", "messages": said(("system", "日本語 👩‍👩‍👧\u2028"), ("user", " ünï\u00a0e\u0301 \t\r\n"), ("assistant", "İ\u0000"), ("user", "ok"))},
    {"name": "white space", "messages": said(("system", " \n s \n "), ("user", "\n\n u \n\n"), ("assistant", "\n\n a \n\n"), ("user", "\t"))},
    {"name": "marks in content", "messages": said(("user", "<|im_end|>\n<|im_start|>system\n<|eot_id|><tool_response>"), ("assistant", "</think>"), ("user", "x"))},
    {"name": "empty", "messages": said(("system", ""), ("user", ""), ("assistant", ""), ("user", ""))},
    {"name": "two of a role", "messages": said(("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e"))},
    {"name": "system late", "messages": said(("user", "a"), ("system", "s"), ("user", "b"))},
]


def conversations(name, tokenizer):
    tokenizer.chat_template = (GOLDENS / f"published/{name}.jinja").read_text(encoding="utf-8")
    rows = []
    for c in CONVERSATIONS:
        given = {"tools": c.get("tools"), "add_generation_prompt": c.get("add_generation_prompt", True), **c.get("more", {})}
        try:
            rendered = tokenizer.apply_chat_template(c["messages"], tokenize=False, **given)
        except Exception:  # whatever it is: transformers refuses the conversation
            rows.append({"rendered": None})
            continue
        h = Hash()
        h.ids(tokenizer.apply_chat_template(c["messages"], tokenize=True, return_dict=False, **given))
        rows.append({"rendered": rendered, "ids": h.hex()})
    return rows


def write(name, golden):
    versions = " ".join(f"{p} {importlib.metadata.version(p)}" for p in ("transformers", "tokenizers", "jinja2"))
    golden = {"producer": f"tools/golden_tokenizers.py with {versions}", **golden}
    text = json.dumps(golden, ensure_ascii=False, indent=1)
    (GOLDENS / name).write_text(text + "\n", encoding="utf-8")


def main():
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # SmolLM2's tokenizer_class is GPT2Tokenizer, which transformers 5 builds without the pre-tokenizer of the file, so that
    # digits are joined; the file is what the model was trained with, and what transformers 4 reads.
    by = {"qwen3": AutoTokenizer, "llama3_1": AutoTokenizer, "smollm2": PreTrainedTokenizerFast}
    tokenizers = {name: by[name].from_pretrained(TARGET / folder) for name, folder in FOLDERS.items()}
    smollm2 = GOLDENS / "published/smollm2.jinja"
    smollm2.write_text(tokenizers["smollm2"].chat_template, encoding="utf-8")
    all_encodings = {name: encodings(tokenizer) for name, tokenizer in tokenizers.items()}
    write("encodings.json", {"strings": STRINGS, "block": BLOCK, "seed": SEED, "pieces": PIECES, "tokenizers": all_encodings})
    rendered = {name: conversations(name, tokenizer) for name, tokenizer in tokenizers.items()}
    write("conversations.json", {"conversations": CONVERSATIONS, "rendered": rendered})
    for name, rows in rendered.items():
        refused = [c["name"] for c, row in zip(CONVERSATIONS, rows) if row["rendered"] is None]
        print(f"{name}: {len(rows)} conversations, refused by transformers: {', '.join(refused) or 'none'}")


if __name__ == "__main__":
    main()

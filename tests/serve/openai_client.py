"""openai_client.py URL: holds haggle serve to the official OpenAI Python client, unchanged. Prints `held` when all is so."""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="sk-right", max_retries=0)
messages = [{"role": "user", "content": "turn 1/6"}]
model = client.models.list().data[0].id

# Whole.
whole = client.chat.completions.create(
    model=model, messages=messages, seed=7, max_completion_tokens=24, n=2, temperature=0.9, logprobs=True, top_logprobs=3
)
assert [choice.index for choice in whole.choices] == [0, 1]
first = whole.choices[0]
assert first.message.role == "assistant" and first.message.content and first.finish_reason in ("stop", "length")
assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in first.logprobs.content)
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert whole.usage.prompt_tokens_details.cached_tokens >= 0

# A stream.
texts, usage = ["", ""], None
for chunk in client.chat.completions.create(
    model=model, messages=messages, seed=7, max_completion_tokens=24, n=2, temperature=0.9, stream=True,
    stream_options={"include_usage": True},
):
    usage = chunk.usage or usage
    for choice in chunk.choices:
        texts[choice.index] += choice.delta.content or ""
assert texts == [choice.message.content for choice in whole.choices], (texts, whole)
assert usage.completion_tokens == whole.usage.completion_tokens

# Stop strings, and texts.
stop = first.message.content[5:8]
cut = client.chat.completions.create(
    model=model, messages=messages, seed=7, max_completion_tokens=24, temperature=0.9, stop=[stop]
)
assert cut.choices[0].message.content == first.message.content[: first.message.content.index(stop)]
text = client.completions.create(model=model, prompt=["Thought:", "Talk:"], max_tokens=4, seed=1, logprobs=2)
assert [choice.index for choice in text.choices] == [0, 1] and len(text.choices[0].logprobs.token_logprobs) <= 4
with client.chat.completions.create(model=model, messages=messages, seed=7, stream=True) as stream:
    next(iter(stream))  # and hang up

# JSON of a schema.
schema = {
    "type": "object",
    "properties": {"cents": {"type": "integer", "minimum": 100, "maximum": 999}, "done": {"type": "boolean"}},
    "required": ["cents", "done"],
    "additionalProperties": False,
}
formed = client.chat.completions.create(
    model=model, messages=messages, seed=7, max_completion_tokens=64,
    response_format={"type": "json_schema", "json_schema": {"name": "offer", "strict": True, "schema": schema}},
)
said = json.loads(formed.choices[0].message.content)
assert 100 <= said["cents"] <= 999 and isinstance(said["done"], bool) and len(said) == 2, said

# A bias that leaves one token.
biased = client.chat.completions.create(
    model=model, messages=messages, max_completion_tokens=3, logit_bias={"300": 100}, presence_penalty=0.5, logprobs=True
)
assert len({entry.token for entry in biased.choices[0].logprobs.content}) == 1, biased

# Errors, by the client's own classes.
def refused(kind, words, **more):
    asked = {"model": model, "messages": messages, **more}
    try:
        client.chat.completions.create(**asked)
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"{more} was not refused")


refused(openai.NotFoundError, "there is no model", model="gpt-4")
refused(openai.BadRequestError, "logit_bias", logit_bias={"3": 500})
refused(openai.BadRequestError, "tempreature", extra_body={"tempreature": 1})
refused(openai.BadRequestError, "leaves no room", messages=[{"role": "user", "content": "hi " * 3000}])
unheld = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}}}
refused(openai.BadRequestError, "uniqueItems", response_format=unheld)
wrong = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="sk-wrong", max_retries=0)
try:
    wrong.models.list()
except openai.AuthenticationError:
    print("held")

#!/usr/bin/env python3
"""What transformers renders: tests/goldens/text/templates.json, and tests/goldens/text/published/.

    pip install transformers==5.24.0 jinja2==3.1.6 && pip install --no-deps trl==1.16.0
    tools/golden_templates.py

Small templates, one for each thing of Jinja, Python and transformers that chat templates use, over one conversation; a
template that transformers refuses has `null`. And the chat templates of Qwen3 and Llama 3 as published, which trl ships
(Apache-2.0, trl/chat_templates), over dialogues of a game. The clock stands at NOW.
"""
import datetime
import importlib.metadata
import json
import pathlib

import transformers.utils.chat_template_utils as chat

NOW = datetime.datetime(2026, 1, 5, 7, 8, 9, 123456)
GOLDENS = pathlib.Path(__file__).parent.parent / "tests/goldens/text"
VARIABLES = {
    "messages": [
        {"role": "system", "content": "  Du kaufst.\n"},
        {"role": "user", "content": " Hi <b>'x' & \"y\"</b> ☃ "},
        {"role": "assistant", "content": "one, two,,three"},
        {"role": "user", "content": "<think>\na\n</think>\n\nb"},
    ],
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
    "eos_token": "<|end|>",
    "data": {"b": [1, 2.5, True, None, "ü\n\"'<&>"], "a": {}, "e": [], "n": {"x": -0.0, "y": 1e16, "z": 1e-5}},
    "text": "Ähm, a Straße\tof\r\n\nwords  ",
}

TEMPLATES = {
    # strings
    "startswith": "{{ text.startswith('Ähm') }} {{ text.startswith(('x', 'Ä')) }} {{ text.endswith(' ') }}",
    "strip": "[{{ text.strip() }}|{{ ' xxaxx '.strip() }}|{{ 'xyaxy'.strip('yx') }}|{{ 'aab'.lstrip('a') }}|{{ 'baa'.rstrip('a') }}]",
    "strip nothing": "[{{ '  '.strip() }}|{{ 'a\n'.rstrip('\\n') }}|{{ '\n\na'.lstrip('\\n') }}]",
    "split": "{{ text.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,,c'.split(',', 1) }} {{ ' a b  c '.split(None, 1) }}",
    "split keyword": "{{ 'a b c'.split(maxsplit=1) }} {{ 'a-b-c'.split(sep='-', maxsplit=1) }} {{ ''.split() }} {{ ''.split(',') }}",
    "rsplit": "{{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b  c '.rsplit(None, 1) }} {{ 'a b'.rsplit() }}",
    "split index": "{{ messages[3].content.split('</think>')[-1].lstrip('\\n') }}|{{ messages[3].content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}",
    "splitlines": "{{ text.splitlines() }} {{ text.splitlines(true) }} {{ 'a\u2028b\x0bc'.splitlines(keepends=True) }} {{ ''.splitlines() }}",
    "partition": "{{ 'a=b=c'.partition('=') | list }} {{ 'a=b=c'.rpartition('=') | list }} {{ 'a'.rpartition('=') | list }}",
    "case": "{{ text.upper() }} {{ text.lower() }} {{ 'aB'.swapcase() }} {{ 'ab cd'.title() }} {{ 'aB cD'.capitalize() }} {{ 'Aß'.lower() }}",
    "find": "{{ text.find('Straße') }} {{ text.rfind('s') }} {{ text.find('zz') }} {{ text.index('m') }} {{ 'aaa'.count('a') }} {{ 'aaaa'.count('aa') }}",
    "replace": "{{ 'aaa'.replace('a', 'b', 2) }} {{ 'aaa'.replace('a', '') }}",
    "removeprefix": "{{ 'abc'.removeprefix('ab') }} {{ 'abc'.removesuffix('bc') }} {{ 'abc'.removeprefix('x') }}",
    "pad": "[{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ 'ab'.center(5, '*') }}|{{ 'a'.center(4, '*') }}|{{ '-4'.zfill(4) }}]",
    "is": "{{ ''.isalpha() }} {{ 'a1'.isalnum() }} {{ '12'.isdigit() }} {{ 'a1'.islower() }} {{ '1'.islower() }} {{ 'A1'.isupper() }} {{ ' '.isspace() }} {{ ''.isspace() }}",
    "join": "{{ ', '.join(['a', 'b']) }} {{ ['a', 1, none] | join('-') }}",
    "format": "{{ '{} and {}'.format('a', 1) }} {{ '%s:%d' | format('a', 3) }} {{ '{:>4}|{:.2f}'.format('a', 2.5) }}",
    "add and multiply": "{{ '-' * 3 }} {{ 'a' + 'b' }} {{ 'a' ~ 1 ~ 'b' }} {{ [1] + [2] }}",
    "slices": "{{ text[:3] }} {{ text[-3:] | trim }} {{ text[1] }} {{ messages[1:][0].role }} {{ messages[::-1][0].role }} {{ messages[-1]['role'] }}",
    "contains": "{{ '</think>' in messages[3].content }} {{ 'x' not in text }} {{ 'role' in messages[0] }} {{ 'tool_calls' in messages[0] }}",
    "escapes": "{{ 'a\\tb\\\\ \\'q\\' \\u00e9' }}",
    "adjacent": "{{ 'a' 'b' }}",
    # dictionaries and lists
    "get": "{{ messages[0].get('role') }} {{ messages[0].get('x') }} {{ messages[0].get('x', 'd') }} {{ messages[0]['x'] is defined }}",
    "items": "{% for k, v in messages[0].items() %}{{ k }}={{ v | trim }};{% endfor %}{% for k, v in data | items %}{{ k }} {% endfor %}",
    "keys": "{{ data.keys() | list }} {{ messages[0].values() | list }} {{ data | list }}",
    "dictsort": "{% for k, v in data | dictsort %}{{ k }}{% endfor %} {{ data | length }}",
    "list methods": "{{ [1, 2, 2].count(2) }} {{ ['a', 'b'].index('b') }}",
    "dict": "{{ dict(a=1, b='x') }} {{ {'a': {'b': [1, 'c']}}.a.b[1] }}",
    "append is refused": "{{ [1].append(2) }}",
    # filters and tests
    "filters": "{{ ' a ' | trim }} {{ 'x' | default('y') }} {{ nothing | default('y') }} {{ '' | default('y', true) }} {{ [3, 1] | sort | first }} {{ 'ab' | upper | last }}",
    "select": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | map(attribute='role') | join(',') }} {{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | list }} {{ [1, 2, 3] | reject('equalto', 2) | list }}",
    "string": "{{ 1 | string + 'a' }} {{ none | string }} {{ true | string }} {{ '3' | int + 1 }} {{ 7 // 2 }} {{ 2 ** 3 }} {{ 7 % 4 }} {{ 7 / 2 }}",
    "tests": "{{ text is string }} {{ text is iterable }} {{ text is sequence }} {{ data is mapping }} {{ data is iterable }} {{ data is sequence }} {{ [1] is sequence }} {{ 1 is iterable }} {{ none is iterable }} {{ nothing is iterable }} {{ none is mapping }}",
    "more tests": "{{ none is none }} {{ tools is none }} {{ 1 is number }} {{ 1.0 is integer }} {{ true is boolean }} {{ true is true }} {{ x is undefined }} {{ 2 is even }} {{ 4 is divisibleby(2) }}",
    "print": "{{ none }} {{ true }} {{ [1, 'a', none, True] }} {{ {'a': 1.0} }} {{ 1.5 }} {{ 1e16 }} {{ nothing }}|{{ ['it\\'s', 'tab\\t'] }}",
    "indent": "{{ 'a\nb' | indent(2) }} {{ 'a' | e }} {{ '<' | escape }}",
    # JSON
    "tojson": "{{ data | tojson }}",
    "tojson indent": "{{ data | tojson(indent=2) }} {{ data.b | tojson(indent=4) }}",
    "tojson options": "{{ data | tojson(ensure_ascii=true, sort_keys=true, separators=[',', ':']) }}",
    "tojson scalars": "{{ 'a\"/\\u2028' | tojson }} {{ 1.0 | tojson }} {{ none | tojson }} {{ [] | tojson(indent=2) }} {{ messages[1] | tojson }}",
    "tojson keys": "{{ {1: 'a', none: 3, 'b': 1e-7} | tojson }}",
    # statements
    "continue": "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ loop.index0 }}{{ m.role }} {% endfor %}",
    "break": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }} {% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}\n  {% generation %}\n{{ m.content }}\n  {%- endgeneration -%}\n x{% endif %}{% endfor %}",
    "generation scope": "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}{%- generation -%} b {%- endgeneration %}",
    "namespace": "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }} {{ ns.n }}",
    "scope": "{% set a = 1 %}{% for m in messages %}{% set a = 2 %}{% endfor %}{{ a }}{% if true %}{% set a = 3 %}{% endif %}{{ a }}",
    "loop": "{% for m in messages %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex0 }}{{ loop.previtem.role if not loop.first }} {{ loop.nextitem is defined }};{% else %}none{% endfor %}",
    "filtered loop": "{% for m in messages if m.role != 'user' %}{{ loop.index }}{{ m.role }} {% endfor %}{% for x in [] %}{% else %}empty{% endfor %}",
    "macro": "{% macro say(m, end='.') %}{{ m.role }}{{ end }}{% endmacro %}{{ say(messages[0]) }}{{ say(messages[1], end='!') }}",
    "call": "{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}x{% endcall %}",
    "set block": "{% set x %}\n a {{ 1 }}\n{% endset %}{{ x | trim }}{% filter upper %}b{% endfilter %}",
    "unpacking": "{% set a, b = 1, 2 %}{{ b }}{{ a }} {% for i in range(3) %}{{ i }}{% endfor %} {{ 'yes' if a == 1 else 'no' }}{{ 'x' if false }}",
    "comments": "a{# b #}\n  {#- c -#}\n d\n{# e #}\nf",
    "raw": "{% raw %}{{ x }}{% endraw %}",
    "raise": "{{ raise_exception('no ' + messages[0].role) }}",
    "raise not reached": "{% if messages[0].role == 'tool' %}{{ raise_exception('x') }}{% endif %}ok",
    "defaults": "{% if tools is not none %}tools{% endif %}{% if documents %}docs{% endif %}{{ bos_token is defined }}{{ bos_token }}{{ eos_token }}",
    "undefined attribute": "{{ nothing.attribute }}",
    "undefined is falsy": "{% if messages[0].tool_calls %}a{% elif nothing %}b{% else %}c{% endif %}{% for x in nothing %}{% endfor %}",
    "no such tag": "{% nothing %}",
    "no such method": "{{ 'a'.shout() }}",
    # white space and line ends
    "trim_blocks": "a\n  {% if true %}\nb\n\t{% endif %}  \nc {% if true %} d{% endif %}\n\ne",
    "lstrip kept": "a\n  {%+ if true %} b{% endif +%}\n c",
    "dashes": "a \n {%- if true -%} \n b \n {%- endif -%} \n c\n{{- ' d' -}}\n e",
    "last newline": "a{{ 1 }}\n\n",
    "crlf": "{%- for m in messages -%}\r\n{{ '<|' + m.role + '|>' }}\r\nx\r\n{% endfor -%}\r\ny\rz\r\n",
    "crlf in a string": "{{ 'a\r\nb' }}|{{ text.split('\\r\\n')[0] }}",
    # dates
    "strftime_now": "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%dT%H:%M:%S') }} {{ strftime_now('%A, %B %-d %j %p %I %y %a') }}",
    "strftime_now rest": "{{ strftime_now('%f %% %z%Z| %U %W %w %u %D %F %T %R %e %c') }} {{ strftime_now('') }}",
}

DIALOGUES = [
    [("system", "You buy.\nBudget: $12.50"), ("user", "turn 1/6")],
    [("system", " You buy. \n"), ("user", "\n hello ☃ \n"), ("assistant", " I offer.\n"), ("user", "Talk: no <tool_response>")],
    [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "<think>\nhm\n</think>\n\nd"), ("user", "e")],
    [("system", "s"), ("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nd")],
]
PUBLISHED = {
    "qwen3": {"eos_token": "<|im_end|>"},
    "qwen3_instruct_2507": {"eos_token": "<|im_end|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "llama3_1": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "llama3_2": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def render(template, variables):
    try:
        return chat._compile_jinja_template(template).render(**variables)
    except Exception:  # whatever it is: transformers refuses the template
        return None


def published(name, tokens):
    path = next(f for f in importlib.metadata.files("trl") if f.name == f"{name}.jinja").locate()
    template = path.read_text(encoding="utf-8")
    (GOLDENS / "published").mkdir(exist_ok=True)
    (GOLDENS / "published" / f"{name}.jinja").write_text(template, encoding="utf-8")
    rows = []
    for said in DIALOGUES:
        messages = [{"role": role, "content": content} for role, content in said]
        variables = {"messages": messages, "tools": None, "documents": None, **tokens}
        prompt = messages[-1]["role"] == "user"
        rendered = render(template, {**variables, "add_generation_prompt": prompt})
        rows.append({"messages": messages, "add_generation_prompt": prompt, "rendered": rendered})
    return {"name": name, **tokens, "dialogues": rows}


def main():
    chat.datetime = Clock
    versions = " ".join(f"{p} {importlib.metadata.version(p)}" for p in ("transformers", "jinja2", "trl"))
    templates = [{"name": n, "template": t, "rendered": render(t, VARIABLES)} for n, t in TEMPLATES.items()]
    golden = {
        "producer": f"tools/golden_templates.py with {versions}",
        "now": NOW.isoformat(),
        "variables": VARIABLES,
        "templates": templates,
        "published": [published(n, t) for n, t in PUBLISHED.items()],
    }
    text = json.dumps(golden, ensure_ascii=False, indent=1)
    (GOLDENS / "templates.json").write_text(text + "\n", encoding="utf-8")
    refused = [row["name"] for row in templates if row["rendered"] is None]
    print(f"{len(templates)} templates, refused by transformers: {', '.join(refused)}")


if __name__ == "__main__":
    main()

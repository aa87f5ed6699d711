"""Chat templates: the same text as transformers, and no way out of the sandbox or the budget."""

import re
import resource
import time
from typing import Any

import pytest

from csaq_runtime.errors import TemplateError
from csaq_runtime.template import render_chat
from csaq_runtime.template.sandbox import ChatEnvironment

CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' +
 message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA3 = """{% set loop_messages = messages %}{% for message in loop_messages %}
{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'
 + message['content'] | trim + '<|eot_id|>' %}
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
{%- set date = strftime_now("%d %b %Y") %}Today: {{ date }}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}"""

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and
     not(message.content.startswith('<tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- if loop.index0 > ns.last_query_index or loop.last %}
            {%- set content = '<think>' + reasoning.strip('\\n') + '</think>\\n' ~ content %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{% generation %}{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

MACROS = """{% macro item(x, deep=0) %}{% for k, v in x | items %}{{ '  ' * deep }}{{ k }}:
{%- if v is mapping %}{{ item(v, deep + 1) }}{% else %} {{ v }}{% endif %};
{% endfor %}{% endmacro %}{{ item(tools[0]) }}{% for m in messages if m.role != 'system' %}
{% if loop.index > 2 %}{% break %}{% endif %}{{ loop.index }}/{{ loop.length }} {{ m.content | upper
 | replace('O', '0') | indent(2) }}{{ loop.cycle('a', 'b') }}
{{ [m.role, 1, 2.5, none] }}{% endfor %}
{{ messages | map(attribute='role') | unique | join(', ') }} {{ '%s-%03d' % ('a', 7) }}
{{ '{:>5}'.format('x') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ {'a': '<&>', 'ü': [1, true]} | tojson(indent=2) }} {{ range(3) | list }} {{ undefined_name }}"""

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <b>brief</b> & kind. "},
    {"role": "user", "content": "  Hello,\nwörld 日本 "},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi!"},
    {"role": "user", "content": "Bye"},
]
TOOLS = [{"type": "function", "function": {"name": "søk", "parameters": {"a": {"type": "int"}}}}]


def render(source: str, messages: list[dict[str, Any]] = MESSAGES, **extra: Any) -> str:
    generate = extra.pop("add_generation_prompt", True)
    return render_chat(
        source, messages, bos_token="<s>", eos_token="</s>",
        add_generation_prompt=generate, extra=extra,
    )  # fmt: skip


@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("extra", [{}, {"tools": TOOLS, "enable_thinking": False}])
@pytest.mark.parametrize("source", [CHATML, LLAMA3, MISTRAL, QWEN, ZEPHYR])
def test_renders_what_transformers_renders(
    source: str, extra: dict[str, Any], generate: bool
) -> None:
    assert render(source, add_generation_prompt=generate, **extra) == reference(
        source, generate, **extra
    )


def test_macros_filters_and_loop_controls_render_as_in_transformers() -> None:
    assert render(MACROS, tools=TOOLS) == reference(MACROS, True, tools=TOOLS)


def reference(source: str, generate: bool, **extra: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered = render_jinja_template(
        conversations=[MESSAGES], chat_template=source, add_generation_prompt=generate,
        bos_token="<s>", eos_token="</s>", **extra,
    )  # fmt: skip
    return str(rendered[0][0])


def test_raise_exception_stays_on_one_line() -> None:
    with pytest.raises(TemplateError) as failure:
        render("{{ raise_exception('a\\n b') }}")
    assert str(failure.value).endswith(": a b")


def test_raise_exception_gives_its_message() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        render(MISTRAL, [MESSAGES[1], MESSAGES[1]])


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "{% endfor %}", "{{ 1/0 }}", "{{ a.b.c }}"])
def test_broken_templates_are_one_line_errors(source: str) -> None:
    with pytest.raises(TemplateError) as failure:
        render(source)
    assert "\n" not in str(failure.value)


ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "format string": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "format map": "{{ '{x.__class__.__base__}'.format_map({'x': 1}) }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "namespace write": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns }}",
    "self": "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "lipsum": "{{ lipsum.__globals__['os'] }}",
    "mutation": "{{ messages.append(1) }}",
    "dict mutation": "{{ dict.update(messages[0], {'role': 'x'}) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.system('id') }}",
    "generator frame": "{{ (messages|map('upper')).gi_frame.f_globals }}",
}


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES)
def test_ways_out_of_the_sandbox_are_refused(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


HIDDEN = {
    "class": "{{ ''.__class__ }}",
    "attr filter": "{{ ''|attr('__class__')|attr('__base__') }}",
    "subscript": "{{ messages['__class__'].__init__ }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "closure": "{{ dict.__closure__ }}{{ strftime_now.__code__ }}",
}


@pytest.mark.parametrize("source", HIDDEN.values(), ids=HIDDEN)
def test_internals_are_undefined(source: str) -> None:
    assert render(source) == ""


LEAK = "{0.__class__.__mro__}"
PUBLISHED = {
    "CVE-2016-10745 str.format": "{{ '" + LEAK + "'.format(1) }}",
    "CVE-2019-10906 str.format_map": "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "CVE-2024-34359 subclasses": "{% for x in ().__class__.__base__.__subclasses__() %}"
    "{% if 'warning' in x.__name__ %}{{ x()._module.__builtins__['__import__']('os').popen('id') }}"
    "{% endif %}{% endfor %}",
    "CVE-2024-56326 stored format": "{% set f = '" + LEAK + "'.format %}{{ f(1) }}",
    "CVE-2024-56326 mapped format": "{{ ['" + LEAK + "'.format]|map('string')|first }}"
    "{{ [1]|map('" + LEAK + "'.format)|list }}",
    "CVE-2025-27516 attr filter": "{{ ('" + LEAK + "'|attr('format'))(1) }}",
    "CVE-2025-27516 map attribute": "{{ (['" + LEAK + "']|map(attribute='format')|first)(1) }}",
}


@pytest.mark.parametrize("source", PUBLISHED.values(), ids=PUBLISHED)
def test_published_ways_out_of_jinja_lead_nowhere(source: str) -> None:
    """Refused, or rendered without anything of Python's insides."""
    try:
        text = render(source)
    except TemplateError:
        return
    assert not re.search("class|object|uid=", text)


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    compile_source = ChatEnvironment.compile
    monkeypatch.setattr(
        ChatEnvironment,
        "compile",
        lambda self, source, *rest, **more: (
            compiled.append(source) or compile_source(self, source, *rest, **more)
        ),
    )
    for _ in range(3):
        assert render("{{ messages[0].content }}{# counted #}") == render(
            "{{ messages[0].content }}"
        )
    assert sum("counted" in source for source in compiled) == 1


DOUBLE = "{% set ns = namespace(x='ab', y=[1]) %}{% for i in range(60) %}"
NESTED = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(40) %}"
NESTED += "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
KEPT = "{% set ns = namespace(x='a' * 100000, k=[]) %}{% for i in range(99999) %}"

BOMBS = {
    "repeat": "{{ 'a' * 2**33 }}",
    "repeat list": "{{ ([0] * 2**33) | length }}",
    "power": "{{ 9**99999999 }}",
    "product": "{% set ns = namespace(x=9) %}{% for i in range(99) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x > 1 }}",
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "recursive loop": "{% for x in [range(9999)|list] recursive %}{{ loop([x]*50) }}{% endfor %}",
    "recursion": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "fibonacci": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "doubling": DOUBLE + "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "doubling concat": DOUBLE + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}",
    "doubling block": "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set y %}"
    "{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubling list": DOUBLE + "{% set ns.y = ns.y + ns.y %}{% endfor %}{{ ns.y|length }}",
    "doubling replace": DOUBLE + "{% set ns.x = ns.x|replace('a', ns.x) %}{% endfor %}",
    "doubling method": DOUBLE + "{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
    "doubling join": DOUBLE + "{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}",
    "doubling str.join": DOUBLE + "{% set ns.x = ns.x.join([ns.x, ns.x]) %}{% endfor %}",
    "doubling percent": DOUBLE + "{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
    "doubling format": DOUBLE + "{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
    "billion laughs": NESTED + "{{ ns.x }}",
    "billion laughs string": NESTED + "{{ (ns.x|string)|length }}",
    "billion laughs json": NESTED + "{{ (ns.x|tojson)|length }}",
    "billion laughs equal": NESTED + "{{ ns.x == ns.y }}",
    "billion laughs test": NESTED + "{{ ns.x is eq(ns.y) }}",
    "billion laughs repr": NESTED + "{{ '{0!r}'.format(ns.x)|length }}",
    "kept slices": KEPT + "{% set ns.k = [ns.k, ns.x[1:]] %}{% endfor %}",
    "kept ranges": KEPT + "{% set ns.k = [ns.k, range(99999)|list] %}{% endfor %}",
    "kept copies": KEPT + "{% set ns.k = [ns.k, ns.x.upper()] %}{% endfor %}",
    "slow title": "{% set x = 'a ' * 1000000 %}{% for i in range(99999) %}"
    "{% set y = x|title %}{% endfor %}",
    "slow unique": "{% set x = 'a ' * 1000000 %}{% for i in range(99999) %}"
    "{% set y = x|unique|list %}{% endfor %}",
    "search": "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}"
    "{% set y = 'b' in x %}{% endfor %}",
    "width": "{{ '%1000000000d' % 1 }}",
    "star width": "{{ '%*d' % (1000000000, 1) }}",
    "format width": "{{ '{:1000000000}'.format(1) }}",
    "nested format width": "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "zfill": "{{ '1'.zfill(1000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(1000000000) }}",
    "to_bytes": "{{ (1).to_bytes(1000000000, 'big') }}",
    "indent": "{{ 'a\n'|indent(1000000000) }}",
    "indent named": "{{ ('a\n' * 9999)|indent(width=100000) }}",
    "tojson indent": "{{ [1]|tojson(indent=1000000000) }}",
    "sum of lists": "{{ ([[1]*20]*99999)|sum(start=[])|length }}",
    "strftime": "{{ strftime_now('%1000000000Y') }}",
    "output": "{% for i in range(99999) %}{{ 'aaaaaaaaaa' * 100 }}{% endfor %}",
    "source": "{{ 1 }}" * 50_000,
}


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS)
def test_bombs_end_within_seconds_and_bounded_memory(source: str) -> None:
    started, before = time.monotonic(), peak_megabytes()
    with pytest.raises(TemplateError):
        render(source)
    assert time.monotonic() - started < 10
    assert peak_megabytes() - before < 512


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_long_conversations_stay_within_the_budget() -> None:
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": f"{i} " + "word " * 500}
        for i in range(400)
    ]
    for source in (CHATML, MISTRAL, QWEN):
        assert "399 word" in render(source, messages)


def test_objects_are_no_template_values() -> None:
    with pytest.raises(TemplateError, match="no template value"):
        render("{{ tools }}", tools=[object()])

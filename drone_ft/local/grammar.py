"""What an answer may be: the calls that fit a request's tools, as a grammar, and what that leaves to the model."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from drone_ft.errors import CatalogError
from drone_ft.local.calls import JSON, Writing, function_of
from drone_ft.local.prompt import ChatRequest, PromptError
from drone_ft.schema import variants

MAX_CALLS = 8
FINEST = 1e-9
SPARE_DIGITS = 2  # how many more than its bounds a number may have in a wide grammar
WIDEST = 10**18  # farther than any regular expression for a number goes
KEPT_AS_THEY_ARE = ("enum", "const", "default", "examples", "if", "then", "else", "not", "allOf", "dependentSchemas")
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
KEPT = 16


class Grammars:
    """Matchers of grammars for one model's vocabulary; `ends` are the tokens that end an answer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        import llguidance.hf

        self.ends = _end_ids(model, tokenizer)
        self._vocabulary = llguidance.hf.from_tokenizer(tokenizer, n_vocab=model.config.vocab_size, eos_token=self.ends)
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._admitted = 0  # one bit a token

    def matcher(self, request: ChatRequest, writing: Writing, *, wide: bool = False) -> Any | None:
        """A fresh matcher of a request's answer, None where any text will do. Raises PromptError."""
        import llguidance

        text = grammar(request, writing, wide=wide)
        if text is None:
            return None
        if text not in self._kept:
            while len(self._kept) >= KEPT:
                self._kept.popitem(last=False)
            self._kept[text] = llguidance.LLMatcher(self._vocabulary, text)
        self._kept.move_to_end(text)
        return self._kept[text].deep_copy()  # a hundred times faster than compiling

    def open_places(self, request: ChatRequest, writing: Writing, answer: Sequence[int]) -> list[int] | None:
        """Places in an answer's tokens where the grammar leaves a choice; None where it does not fit the answer.

        What is admitted there is noted in `admitted`. Raises PromptError.
        """
        matcher = self.matcher(request, writing, wide=True)
        if matcher is None:
            return None
        found, admitted = [], 0
        for place, token in enumerate(answer):
            if matcher.is_stopped():
                if place < len(answer) - 1:  # more than the grammar wants, and not just the end
                    return None
                break
            if matcher.compute_ff_tokens()[:1] != [token]:
                found.append(place)
                admitted |= int.from_bytes(matcher.compute_bitmask(), "little")
            if token in self.ends:
                break
            if not matcher.consume_token(token):
                return None
        self._admitted |= admitted
        return found

    @property
    def admitted(self) -> list[int]:
        """Every token that was open to choice in the answers seen so far, rising."""
        bits = bin(self._admitted)[:1:-1]
        return [token for token, bit in enumerate(bits) if bit == "1"]


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    return ends


def grammar(request: ChatRequest, writing: Writing, *, wide: bool = False) -> str | None:
    """The llguidance grammar of the answer, None where any text will do. Raises PromptError.

    A `wide` one lets a call's numbers leave their bounds, where another function could be called instead: held to
    them, a model that means 900 writes 90.
    """
    wanted = json.dumps(request.schema) if request.schema is not None else ""
    tools, choice = list(request.callable), request.tool_choice
    if not tools:
        return _compile_text(wanted) if wanted else None
    if isinstance(choice, dict):
        tools = [tool for tool in tools if function_of(tool)["name"] == choice.get("name")]
        if not tools:
            raise PromptError(
                f"tool_choice names the function {choice.get('name')!r}, which is not among the tools.", "tool_choice"
            )
    more = (json.dumps(tools), writing, choice == "auto", request.parallel, wanted)
    bounded = _compile(*more)  # first: it says what is wrong with the tools
    # chances are told of one way of writing an answer only
    return _compile(*more, wide=True) if wide and len(tools) > 1 and request.logprobs is None else bounded


@lru_cache(maxsize=32)
def _compile_text(wanted: str) -> str:
    """A grammar of JSON text that fits a schema."""
    import llguidance

    compiled = str(llguidance.LLMatcher.grammar_from_lark(f"start: %json {_fitting(wanted)}\n"))
    if trouble := _trouble(compiled):
        message = f"The schema of response_format cannot be enforced here: {trouble}. Leave that keyword out."
        raise PromptError(message, "response_format")
    return compiled


def _fitting(wanted: str) -> str:
    """A schema with the blanks people write; at its root, so that its $defs are found."""
    return json.dumps(_finite(json.loads(wanted)) | {"x-guidance": _spacing(JSON)})


@lru_cache(maxsize=32)
def _compile(
    tools_json: str, writing: Writing, text_allowed: bool, parallel: bool, wanted: str, wide: bool = False
) -> str:
    """A Lark grammar: one call (or several), or else text that does not begin like one, or that fits a schema."""
    import llguidance

    functions = [function_of(tool) for tool in json.loads(tools_json)]
    more = parallel and writing.joint is not None
    many = f"call ({_literal(writing.joint or '')}call){{0,{MAX_CALLS - 1}}}" if more else "call"
    rules = [_call_rule(function, writing, wide) for function in functions]
    lark = f"start: {many}{' | text' if text_allowed else ''}\ncall: {' | '.join(rules)}\n"
    if text_allowed and wanted:
        _compile_text(wanted)  # says what is wrong with it alone
        lark += f"text: %json {_fitting(wanted)}\n"
    elif text_allowed:
        lark += f"text: TEXT\nTEXT: /\\s*[^\\s](.|\\n)*/ & ~/\\s*{_beginning(functions, writing)}(.|\\n)*/\n"
    compiled = str(llguidance.LLMatcher.grammar_from_lark(lark))
    if _trouble(compiled):
        for function, rule in zip(functions, rules, strict=True):
            trouble = _trouble(llguidance.LLMatcher.grammar_from_lark(f"start: {rule}\n"))
            if trouble:
                raise _not_enforceable(function["name"], trouble)
        raise _not_enforceable("together", _trouble(compiled))
    return compiled


def _beginning(functions: list[dict[str, Any]], writing: Writing) -> str:
    """What no text may begin with, as a regular expression: a call's first letter, or a function's whole name."""
    names = "|".join(re.escape(function["name"]) for function in functions)
    return re.escape(writing.before.lstrip()[:1]) or f"({names}){re.escape(writing.between[:1])}"


def _literal(text: str) -> str:
    """A Lark literal, with the blank behind it that separates it from the next."""
    return f"{json.dumps(text, ensure_ascii=False)} " if text else ""


def _spacing(writing: Writing) -> dict[str, Any]:
    item, key = writing.separators
    return {"whitespace_flexible": False, "item_separator": item, "key_separator": key}


def _trouble(compiled: str) -> str:
    """What llguidance refuses in a grammar, "" when it takes it."""
    import llguidance

    trouble = str(llguidance.LLMatcher.validate_grammar(compiled))
    if not trouble or trouble.startswith("WARNING"):
        return ""
    return trouble.splitlines()[0].split("failed to compile JSON schema: ")[-1]


def _not_enforceable(name: str, trouble: str) -> PromptError:
    return PromptError(
        f"The parameters of function {name} cannot be enforced here: {trouble}. Leave that keyword out.", "tools"
    )


def _call_rule(function: dict[str, Any], writing: Writing, wide: bool) -> str:
    """The Lark rule of a function's calls."""
    try:
        parameters = _widened(function["parameters"]) if wide else function["parameters"]
        arguments = [_finite(_closed(variant)) for variant in variants(parameters)]
    except CatalogError as error:
        raise _not_enforceable(function["name"], str(error)) from error
    schema = json.dumps({"anyOf": arguments, "x-guidance": _spacing(writing)})
    beginning = _literal(f"{writing.before}{function['name']}{writing.between}")
    return f"{beginning}%json {schema} {_literal(writing.after)}"


def _closed(schema: Any) -> Any:
    """The same schema admitting no property it does not describe: a model must not invent arguments."""
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {
        key: [_closed(part) for part in value] if key in ("anyOf", "oneOf", "allOf") else value
        for key, value in schema.items()
        if key != "uniqueItems"  # llguidance knows it not; calls.read() drops what is there twice
    }
    if "items" in closed:
        closed["items"] = _closed(closed["items"])
    if closed.get("type") == "object" or "properties" in closed:
        properties = closed.get("properties") or {}
        closed["properties"] = {name: _closed(part) for name, part in properties.items()}
        closed.setdefault("additionalProperties", False)
    return closed


def _widened(schema: Any) -> Any:
    """The same schema with room for numbers of some digits more beyond their bounds; its conditions stay."""
    if isinstance(schema, list):
        return [_widened(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    bounds = {key: abs(schema[key]) for key in (*LOWER, *UPPER) if _is_near(schema.get(key))}
    farthest = 10 ** (len(str(int(max(bounds.values(), default=0)))) + SPARE_DIGITS)
    wide = {key: value if key in KEPT_AS_THEY_ARE else _widened(value) for key, value in schema.items()}
    return wide | {key: -farthest if key in LOWER else farthest for key in bounds}


def _is_near(bound: Any) -> bool:
    return isinstance(bound, int | float) and not isinstance(bound, bool) and abs(bound) < WIDEST / 10**SPARE_DIGITS


def _finite(schema: Any) -> Any:
    """The same schema with numbers of so many digits: a model that knows nothing writes them until its room is full."""
    if isinstance(schema, list):
        return [_finite(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    finite = {key: value if key in ("enum", "const") else _finite(value) for key, value in schema.items()}
    return finite | ({"multipleOf": FINEST} if schema.get("type") == "number" and "multipleOf" not in schema else {})

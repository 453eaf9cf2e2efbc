"""Where a file goes: what is refused there, and functions without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drone_ft import schema
from drone_ft.catalog import Catalog
from drone_ft.errors import CatalogError
from drone_ft.schema.pieces import canonical

_CONDITIONS = (
    "if", "then", "else", "allOf", "oneOf", "not", "dependentRequired", "dependentSchemas", "dependencies",
    "unevaluatedProperties", "unevaluatedItems", "propertyNames", "minProperties", "maxProperties",
)  # fmt: skip
_AT_THE_TOP = ("anyOf", "enum")  # refused only for a function's parameters as a whole
_CUT = "the rest would be cut off unnoticed"


@dataclass(frozen=True)
class Target:
    """Where a file goes: the tokens an example may have, and the words of JSON Schema that are refused there.

    `is_hosted`: whether the file leaves this computer. Tools then count among an example's tokens; here only where
    they are not the same in every line. `is_strict`: whether it is known to refuse these words, so that it is never
    sent them.
    """

    name: str
    most_tokens: int
    excess: str
    refused: tuple[str, ...] = ()
    is_hosted: bool = True
    is_strict: bool = False


TARGETS = {
    "openai": Target("OpenAI", 65_536, _CUT, _CONDITIONS, is_strict=True),
    "azure": Target("Azure OpenAI", 65_536, _CUT, _CONDITIONS, is_strict=True),
    # a server of one's own: held to OpenAI's rules, but what it is sent is the user's choice
    "custom": Target("the server", 65_536, _CUT, _CONDITIONS),
    # what the default model reads; another model says its own limit when training begins
    "local": Target("This computer", 8_192, "training would refuse the line", is_hosted=False),
}


def words_in(parameters: object, refused: Sequence[str]) -> list[str]:
    """The refused words a function's parameters use, at any depth."""
    found: dict[str, None] = {}

    def visit(part: object) -> None:
        if isinstance(part, dict):
            found.update(dict.fromkeys(word for word in part if word in refused))
            _below(part, visit)

    if refused and isinstance(parameters, dict):
        found.update(dict.fromkeys(word for word in _AT_THE_TOP if word in parameters))
        visit(parameters)
    return list(found)


def sent(catalog: Catalog, target: str) -> Catalog:
    """The catalog as a target is sent it, to train on and to answer by: without what it is known to refuse."""
    refused = TARGETS[target].refused if TARGETS[target].is_strict else ()
    functions = tuple(
        replace(function, parameters=without(function.parameters, refused))
        if words_in(function.parameters, refused)
        else function
        for function in catalog.functions
    )
    return replace(catalog, functions=functions)


def without(parameters: dict[str, Any], refused: Sequence[str] = _CONDITIONS) -> dict[str, Any]:
    """A function's parameters without the refused words of JSON Schema; calls that fitted before still fit."""
    try:
        whole = schema.inline(parameters)
    except CatalogError:
        whole = parameters  # it leads back to itself, which another rule tells
    done: dict[str, Any] = _without(whole, (*refused, *_AT_THE_TOP), refused)
    return done


def _without(part: Any, here: Sequence[str], below: Sequence[str]) -> Any:
    """One schema and all below it; parameters that only a lost branch declares are kept, in all their forms."""
    if not isinstance(part, dict):
        return part
    done = {word: value for word, value in part.items() if word not in here}
    for branch in _lost(part, ("allOf",), here):
        needed = [*done.get("required", []), *branch.get("required", [])]
        properties = {**branch.get("properties", {}), **done.get("properties", {})}
        done = {**branch, **done, **({"properties": properties} if properties else {})}
        done |= {"required": list(dict.fromkeys(needed))} if needed else {}
    if "oneOf" in part and "oneOf" in here and "anyOf" not in (*here, *part):
        done["anyOf"] = part["oneOf"]
    forms: dict[str, dict[str, Any]] = {}
    for branch in _lost(part, ("anyOf", "oneOf"), here) if "anyOf" not in done else ():
        for name, inner in branch.get("properties", {}).items():
            if inner is not False and name not in done.get("properties", {}):
                forms.setdefault(name, {})[canonical(inner)] = inner
    for name, some in forms.items():
        form = next(iter(some.values())) if len(some) == 1 else {"anyOf": list(some.values())}
        done["properties"] = {**done.get("properties", {}), name: form}
    return _below(done, lambda inner: _without(inner, below, below))


def _lost(part: dict[str, Any], words: Sequence[str], dropped: Sequence[str]) -> list[dict[str, Any]]:
    """The branches under words that are dropped, themselves without dropped words."""
    branches = [inner for word in words if word in dropped for inner in part.get(word, [])]
    return [_without(branch, dropped, dropped) for branch in branches if isinstance(branch, dict)]


def _below(part: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The schema with `change` applied to each schema directly below it, and to those it only defines."""
    done = schema.below(part, change)
    for home in ("$defs", "definitions"):
        if isinstance(done.get(home), dict):
            done[home] = {name: change(inner) for name, inner in done[home].items()}
    return done

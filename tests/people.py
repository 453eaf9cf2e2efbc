"""Answers as a good model gives them, for the scripted server: `--answer tests.people:answer`."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from tests.scripted import sample

MANNERS = (
    "Could somebody see to the {what} right away, thanks",
    "It would be lovely to have {what} before lunch, please don't forget it",
    "{what} is what we need now",
    "I was wondering about {what}; go ahead with it",
)
BEYOND = (
    "Sing the song of the {what} to my grandmother",
    "Order me a pizza while the {what} goes on",
    "What will the {what} be worth in ten years",
    "Paint the {what} purple",
)


def answer(body: dict[str, Any]) -> str | dict[str, Any]:
    """Values, commands that say every value, impossible requests; of tools, the one whose name is said most."""
    told = next(m["content"] for m in body["messages"] if m["role"] == "user")
    if body.get("tools"):
        return _called([tool["function"] for tool in body["tools"]], told)
    form = body["response_format"]["json_schema"]
    if form["name"] == "values":
        return json.dumps(sample(form["schema"], random.Random(told)))
    count = form["schema"]["properties"][form["name"]]["minItems"]
    if form["name"] == "commands":
        call = json.loads(re.findall(r"^The call: (.*)$", told, re.MULTILINE)[0])
        what = " ".join([call["name"], *_said(call["arguments"])]).replace("_", " ")
        return json.dumps({"commands": [MANNERS[n].format(what=what) for n in range(count)]})
    name = json.loads(re.findall(r"^Come close to: (.*)$", told, re.MULTILINE)[0])["name"].replace("_", " ")
    return json.dumps({"requests": [BEYOND[n].format(what=name) for n in range(count)]})


def _called(functions: list[dict[str, Any]], told: str) -> dict[str, Any]:
    words = set(told.lower().split())
    best = max(functions, key=lambda function: len(words & set(function["name"].lower().split("_"))))
    return {"name": best["name"], "arguments": sample(best.get("parameters") or {}, random.Random(told))}


def _said(arguments: dict[str, Any]) -> list[str]:
    said: list[str] = []
    for value in arguments.values():
        said += _said(value) if isinstance(value, dict) else [str(value)]
    return said

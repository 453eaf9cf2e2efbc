"""The server's own description in OpenAPI 3.1: from its routes, their docstrings and the openai package's types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from openai.types import FileDeleted, FileObject, Model, ModelDeleted
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent, job_create_params
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import TypeAdapter
from starlette.routing import Route

from drone_ft.local.api import Json
from drone_ft.local.chat import MOST_CHOICES, NEUTRAL
from drone_ft.local.files import PURPOSES

_BODIES: dict[str, Any] = {"chat": CompletionCreateParamsNonStreaming, "create_job": job_create_params.JobCreateParams}
_REPLIES: dict[str, Any] = {
    "get_model": Model,
    "delete_model": ModelDeleted,
    "chat": ChatCompletion,
    "create_file": FileObject,
    "get_file": FileObject,
    "delete_file": FileDeleted,
    "create_job": FineTuningJob,
    "get_job": FineTuningJob,
    "cancel_job": FineTuningJob,
    "pause_job": FineTuningJob,
    "resume_job": FineTuningJob,
}
_LISTS: dict[str, Any] = {
    "list_models": Model,
    "list_files": FileObject,
    "list_jobs": FineTuningJob,
    "list_events": FineTuningJobEvent,
    "list_checkpoints": FineTuningJobCheckpoint,
}
_PAGED = {"limit": {"type": "integer", "minimum": 1}, "after": {"type": "string"}}
_QUERIES: dict[str, Json] = {
    "list_files": _PAGED | {"order": {"type": "string", "enum": ["asc", "desc"]}, "purpose": {"type": "string"}},
    "list_jobs": _PAGED,
    "list_events": _PAGED,
    "list_checkpoints": _PAGED,
}
_UPLOAD = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
    },
    "required": ["file", "purpose"],
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def describe(routes: Sequence[Route], models: Sequence[str]) -> Json:
    """The OpenAPI document of these routes, and of the models they answer with."""
    known = [{"type": "string", "enum": list(models)}, {"type": "string", "pattern": "^ft:.+:ckpt-step-[0-9]+$"}]
    schemas: Json = {"Error": _ERROR, "ModelId": {"anyOf": known}}
    paths: dict[str, Json] = {}
    for route in routes:
        path = re.sub(r":path\}", "}", route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            paths.setdefault(path, {})[method.lower()] = _operation(route, path, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "drone_ft, this computer", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(route: Route, path: str, schemas: Json) -> Json:
    name = route.name
    inside = [
        {"name": parameter, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for parameter in re.findall(r"\{(\w+)\}", path)
    ]
    asked = [{"name": key, "in": "query", "schema": schema} for key, schema in _QUERIES.get(name, {}).items()]
    operation: Json = {
        "operationId": name,
        "summary": (route.endpoint.__doc__ or "").strip(),
        "parameters": inside + asked,
        "responses": {
            "200": {"description": "OK", "content": _reply(name, schemas)},
            "default": {"description": "Refused", "content": _json({"$ref": "#/components/schemas/Error"})},
        },
    }
    if name in _BODIES:
        operation["requestBody"] = {"required": True, "content": _json(_body(_BODIES[name], schemas))}
    elif name == "create_file":
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD}}}
    return operation


def _body(kind: Any, schemas: Json) -> Json:
    """What the API takes, less what this computer refuses."""
    body = _schema(kind, schemas, "validation")
    known = {key: {"enum": list(NEUTRAL[key])} if key in NEUTRAL else part for key, part in body["properties"].items()}
    known.pop("integrations", None)
    known["model"] = {"$ref": "#/components/schemas/ModelId"}
    if "stream" in known:
        known["stream"] = {"type": ["boolean", "null"]}
        known["n"] = {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_CHOICES}
    return body | {"properties": known, "additionalProperties": False}


def _reply(name: str, schemas: Json) -> Json:
    if name in _REPLIES:
        streamed: Json = {"text/event-stream": {}} if name == "chat" else {}
        return _json(_schema(_REPLIES[name], schemas, "serialization")) | streamed
    if name in _LISTS:
        items = {"type": "array", "items": _schema(_LISTS[name], schemas, "serialization")}
        return _json({"type": "object", "properties": {"data": items}, "required": ["object", "data"]})
    return {"application/octet-stream": {}} if name == "file_content" else _json({"type": "object"})


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _schema(kind: Any, schemas: Json, mode: Any) -> Json:
    """A type's JSON Schema; what it refers to goes to `schemas`, under names of its own."""
    template = f"#/components/schemas/{kind.__name__}.{{model}}"
    found: Json = TypeAdapter(kind).json_schema(mode=mode, ref_template=template)
    schemas.update({f"{kind.__name__}.{name}": part for name, part in found.pop("$defs", {}).items()})
    return found

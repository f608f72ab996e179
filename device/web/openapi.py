"""The description of the JSON interface (https://spec.openapis.org/oas/v3.1.0), made of the verbs."""

from typing import Any

from device.web.verbs import LONGEST, MANY, NUMBER, NUMBERS, SHARE, TEXT, VERBS, Verb

SCHEMAS: dict[str, dict[str, Any]] = {
    TEXT: {"type": "string", "minLength": 1, "maxLength": LONGEST},
    NUMBER: {"type": "integer", "minimum": 0, "maximum": 2**53},
    NUMBERS: {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**53}, "minItems": 1, "maxItems": MANY},
    SHARE: {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
}
DAY = {"name": "day", "in": "query", "required": False, "schema": {"type": "string", "format": "date"}, "description": "today without it"}
TOLD = {
    "people": "who is in the gallery",
    "visits": "who came by on a day",
    "unknowns": "strangers who are remembered, those who look alike together",
    "review": "visits that somebody should look at",
    "doctor": "what doctor.py finds",
}


def description() -> dict[str, Any]:
    reads = {f"/api/{what}": {"get": _read(what, text)} for what, text in TOLD.items()}
    does = {f"/api/do/{name}": {"post": _verb(name, verb)} for name, verb in VERBS.items() if not verb.files}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Omokage", "version": "1", "description": "What the page can do. Every change is in the audit log."},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
        "paths": reads | does,
    }


def _read(what: str, text: str) -> dict[str, Any]:
    answers = {"200": _answer("a list", {"type": "array"}), **_errors()}
    return {"operationId": what, "summary": text, "parameters": [DAY] if what == "visits" else [], "responses": answers}


def _verb(name: str, verb: Verb) -> dict[str, Any]:
    required = [field for field in verb.fields if field not in verb.optional]
    schema = {"type": "object", "properties": {field: SCHEMAS[kind] for field, kind in verb.fields.items()}, "required": required}
    done = {
        "type": "object",
        "required": ["text", "hints", "page", "change"],
        "properties": {
            "text": {"type": "string"},
            "hints": {"type": "array", "items": {"type": "string"}},
            "page": {"type": ["string", "null"]},
            "change": {"type": ["integer", "null"]},
        },
    }
    return {
        "operationId": f"do_{name}",
        "summary": verb.told,
        "requestBody": {"required": bool(required), "content": {"application/json": {"schema": schema}}},
        "responses": {"200": _answer("it is done", done), **_errors()},
    }


def _errors() -> dict[str, Any]:
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}, "mend": {"type": "string"}}}
    told = {"400": "the call is wrong", "401": "the token is missing or wrong", "403": "not from this page", "503": "not now"}
    return {status: _answer(text, error) for status, text in told.items()}


def _answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}

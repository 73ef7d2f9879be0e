"""The front door described for programs: an OpenAPI 3.1 document, made from the routes and the messages. Pure.

The messages' annotations are the schemas; nothing is written twice.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import TypeAdapter

from matcher.net.caller import REQUEST, REQUEST_PATTERN
from matcher.net.door.routes import Lines, Octets, Route, Who
from matcher.wire.messages import Message, Refused
from matcher.wire.volumes import VolumeProgress

VERSION = "1"
MEDIA = {
    Octets.ENVELOPE: "application/octet-stream",
    Octets.ENVELOPES: "application/octet-stream",
    Octets.IMAGE: "application/octet-stream",
    Octets.DOCUMENTS: "application/octet-stream",
    Octets.LOG: "application/octet-stream",
    Octets.OPENAPI: "application/json",
}

Json = dict[str, Any]
PARAMETERS: dict[str, Json] = {
    "id": {
        "description": "the VM's UUID, with dashes or without",
        "schema": {"type": "string", "pattern": "^[0-9A-Fa-f]{8}-?([0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}$"},
    },
    "vid": {"description": "the volume's UUID", "schema": {"type": "string", "pattern": "^[0-9A-Fa-f-]{32,36}$"}},
    "host": {"description": "the host's id", "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
    "user": {"description": "the user's id", "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
}
_REFUSED = {"$ref": "#/components/responses/Refused"}
Mode = Literal["validation", "serialization"]


def document(routes: Sequence[Route]) -> Json:
    """The whole document, as JSON values."""
    schemas, definitions = _schemas(routes)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AtomOS front door",
            "version": VERSION,
            "description": "TLS 1.3 alone; both sides show a certificate of the realm.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"certificate": []}],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": {"Refused": _answer("A typed no", "application/json", schemas[Refused, "serialization"])},
            "securitySchemes": {"certificate": {"type": "mutualTLS", "description": "a member's leaf, with its key"}},
        },
    }


def _schemas(routes: Sequence[Route]) -> tuple[dict[tuple[type[Message], Mode], Json], Json]:
    """A schema for each message in each direction that it travels, and what these refer to."""
    wanted: dict[tuple[type[Message], Mode], None] = {(Refused, "serialization"): None}
    for route in routes:
        answer = route.answer.of if isinstance(route.answer, Lines) else route.answer
        if isinstance(answer, type):
            wanted[answer, "serialization"] = None
        if isinstance(route.question, type):
            wanted[route.question, "validation"] = None
    inputs = [(message.__name__, mode, TypeAdapter[Any](message)) for message, mode in wanted]
    made, shared = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    return {(message, mode): made[message.__name__, mode] for message, mode in wanted}, shared["$defs"]


def _operation(route: Route, schemas: dict[tuple[type[Message], Mode], Json]) -> Json:
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "description": _who(route),
        "responses": {**_answers(route, schemas), "4XX": _REFUSED, "5XX": _REFUSED},
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.question is not None:
        operation["requestBody"] = {"required": True, "content": _question(route, schemas)}
    return operation


def _who(route: Route) -> str:
    who = {Who.USER: "For users.", Who.HOST: "For hosts.", Who.MEMBER: "For members: hosts and users."}[route.who]
    needs = f" Their grant needs the verb `{route.verb}`." if route.verb else ""
    most = f" A body of at most {route.body_max_bytes} bytes." if route.body_max_bytes else ""
    return who + needs + most


def _parameters(route: Route) -> list[Json]:
    parameters: list[Json] = [
        {
            "name": part[1:-1],
            "in": "path",
            "required": True,
            **PARAMETERS[part[1:-1]],
        }
        for part in route.parts
        if part.startswith("{")
    ]
    if route.query is not None:
        schema = {"type": "string", "pattern": route.query.pattern}
        parameters.append(
            {"name": route.query.name, "in": "query", "description": route.query.summary, "schema": schema}
        )
    if route.answer == Lines(VolumeProgress):
        said = "your own name for this request: repeated under it within minutes, it is done once"
        schema = {"type": "string", "pattern": REQUEST_PATTERN}
        parameters.append({"name": REQUEST, "in": "header", "description": said, "schema": schema})
    return parameters


def _question(route: Route, schemas: dict[tuple[type[Message], Mode], Json]) -> Json:
    if isinstance(route.question, Octets):
        return {MEDIA[route.question]: {"schema": {"description": route.question.value}}}
    assert route.question is not None
    return {"application/json": {"schema": schemas[route.question, "validation"]}}


def _answers(route: Route, schemas: dict[tuple[type[Message], Mode], Json]) -> Json:
    match route.answer:
        case None:
            return {"101": {"description": "The WebSocket is open"}}
        case Lines(of):
            return {
                "200": _answer("One such object in each line", "application/x-ndjson", schemas[of, "serialization"])
            }
        case Octets() as octets:
            return {"200": _answer(octets.value, MEDIA[octets], {"description": octets.value})}
        case message:
            return {"200": _answer(message.__name__, "application/json", schemas[message, "serialization"])}


def _answer(description: str, media: str, schema: Json) -> Json:
    return {"description": description, "content": {media: {"schema": schema}}}

"""The schemas that editors get."""

import json
from typing import Any

import pytest

from specs.schema import DIALECT, json_schema
from specs.specfile import Specfile


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every object schema inside."""
    inner = list(schema.values()) if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    own = [schema] if isinstance(schema, dict) and schema.get("type") == "object" else []
    return own + [found for part in inner for found in objects(part)]


@pytest.mark.parametrize("what", ["specfile", "volumespec"])
def test_a_schema_is_one_json_document_of_the_2020_12_dialect(what: Any) -> None:
    schema = json_schema(what)
    assert schema["$schema"] == DIALECT == "https://json-schema.org/draft/2020-12/schema"
    assert json.loads(json.dumps(schema)) == schema
    assert "$ref" not in json.dumps(schema)


@pytest.mark.parametrize("what", ["specfile", "volumespec"])
def test_every_object_is_closed_and_every_field_explained(what: Any) -> None:
    for schema in objects(json_schema(what)):
        assert schema["additionalProperties"] is False
        assert all(field["description"] for field in schema["properties"].values())


def test_both_forms_are_in_the_schema() -> None:
    fields = json_schema("specfile")["properties"]
    both = {**fields["cpu"]["properties"], **fields["ram"]["properties"]}
    assert all(fields[name] == inner for name, inner in both.items())
    assert set(fields) == {*both, "info", "cpu", "ram", "pci", "usb", "misc"}


def test_the_defaults_are_those_of_the_parser() -> None:
    fields = json_schema("specfile")["properties"]
    document = Specfile(slots=1, ramsize_mib=512).to_document()
    written = {**document["cpu"], **document["ram"], "pci": document["pci"]}
    assert {name: fields[name]["default"] for name in written if "default" in fields[name]} == {
        name: value for name, value in written.items() if name not in ("slots", "ramsize")
    }
    misc = fields["misc"]["properties"]
    assert {name: misc[name]["default"] for name in document["misc"]} == document["misc"]


def test_changing_a_schema_changes_no_other() -> None:
    json_schema("specfile")["properties"].clear()
    assert json_schema("specfile")["properties"]

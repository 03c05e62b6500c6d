"""Extract what test_api_names.py needs from Docker's OpenAPI file: run with the yaml's path, JSON to stdout.

The result holds, for each definition and each endpoint's answers, the member names only:
a definition's name, ["list", of], ["map", of], {"member": of} or null for anything else.
"""

import json
import sys
from typing import Any

import yaml

Shape = Any


class Extract:
    """Shapes of one OpenAPI 2 document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._definitions = document["definitions"]
        self._paths = document["paths"]

    def shape(self, schema: dict[str, Any]) -> Shape:
        """The shape of a schema, definitions by name."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return (
                name
                if isinstance(self.shape(self._definitions[name]), dict)
                else self.shape(self._definitions[name])
            )
        if "allOf" in schema:
            members: dict[str, Shape] = {}
            for part in schema["allOf"]:
                inner = self.shape(part)
                inner = self.shape(self._definitions[inner]) if isinstance(inner, str) else inner
                members.update(inner or {})
            return members
        if schema.get("properties"):
            return {name: self.shape(member) for name, member in schema["properties"].items()}
        if schema.get("type") == "array":
            return ["list", self.shape(schema.get("items", {}))]
        if isinstance(schema.get("additionalProperties"), dict):
            return ["map", self.shape(schema["additionalProperties"])]
        return None

    def endpoints(self) -> dict[str, dict[str, Shape]]:
        """`GET /path` to status to the shape of the answer."""
        found: dict[str, dict[str, Shape]] = {}
        for path, verbs in self._paths.items():
            for verb, operation in verbs.items():
                if verb in ("get", "post", "put", "delete", "head"):
                    found[f"{verb.upper()} {path}"] = {
                        str(status): self.shape(answer.get("schema", {}))
                        for status, answer in operation["responses"].items()
                    }
        return found

    def definitions(self) -> dict[str, Shape]:
        """Every definition that has members."""
        shapes = {name: self.shape(schema) for name, schema in self._definitions.items()}
        return {name: shape for name, shape in shapes.items() if isinstance(shape, dict)}


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        extract = Extract(yaml.safe_load(file))
    result = {"definitions": extract.definitions(), "endpoints": extract.endpoints()}
    json.dump(result, sys.stdout, separators=(",", ":"), sort_keys=True)
    print()

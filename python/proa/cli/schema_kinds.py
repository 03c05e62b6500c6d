"""What kind of value each field of the API's structs holds: how Go prints and forgives an absent one.

Imports msgspec: used only where a template meets a null or an absent key.
"""

import msgspec

from proa.schema import container, container_state, exec, image, network, system, volume


def field_kinds() -> dict[str, str]:
    """Encoded field name to `list`, `map` or `value`. Where structs differ the container's own wins."""
    kinds: dict[str, str] = {}
    for module in (container_state, container, image, network, volume, exec, system):
        for item in vars(module).values():
            if isinstance(item, type) and issubclass(item, msgspec.Struct):
                for field in msgspec.structs.fields(item):
                    kinds.setdefault(field.encode_name, _kind(str(field.type)))
    return kinds


def _kind(annotation: str) -> str:
    if annotation.startswith(("list", "tuple")):
        return "list"
    return "map" if annotation.startswith("dict") else "value"

"""Which members of a JSON object Docker shows although they hold nothing.

dockerd omits some members at their zero value (`omitempty`) and shows the others. A struct of which it omits
some has omit_defaults, and gives every member that is always shown one of these as its default: msgspec
omits a value that is its field's default, but not one that a factory made.

A member whose Go type is a struct and no pointer is never null: it has an instance as its default.
"""

from typing import Any

from msgspec import field

SHOWN_STR: Any = field(default_factory=str)
SHOWN_INT: Any = field(default_factory=int)
SHOWN_BOOL: Any = field(default_factory=bool)
SHOWN_NULL: Any = field(default_factory=type(None))

"""Who the user is to a registry: what `login` stored, as the header that pull, push, run and search send.

Imported only where the client's config.json exists: a run of a local image never gets here.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from proa.cli.flags import Globals


def header_for(reference: str, options: "Globals | None" = None) -> str | None:
    """The value of X-Registry-Auth for the registry of an image; None where nothing is stored for it."""
    return None

"""Images: what is stored, under which names, from which archives.

verbs     the API's and the engine's face, composed of
store     records, names, users, collection      records   one image and its layers
loading   archives in          intake   what loads and imports share
importing plain tars in        changes  --change instructions
saving    archives out
removal   rmi and prune        filters  of list and prune
eviction  image gc by size     usage    when each was used last
"""

from proa.engine.images.records import ImageRecord
from proa.engine.images.store import SCHEMA
from proa.engine.images.verbs import Images

__all__ = ["SCHEMA", "ImageRecord", "Images"]

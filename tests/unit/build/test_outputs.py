"""What is asked of an image's form: fields by BuildKit's names, and the documents that come of them."""

import json

import pytest

from proa.engine.builds.outputs import index_of, manifest_of, wish_of
from proa.errors import InvalidParameter
from proa.schema.oci import CONFIG, DOCKER_CONFIG, DOCKER_MANIFEST, LAYER, MANIFEST, Descriptor, Platform

BOTH = ("linux/amd64", "linux/arm64")
LAYERS = [Descriptor(media_type=f"{LAYER}+gzip", digest="sha256:l", size=1)]
CONFIG_BLOB = Descriptor(digest="sha256:c", size=2)


def test_nothing_asked_is_no_wish() -> None:
    assert not wish_of({"rewrite-timestamp": "true"}, BOTH[:1]).given
    assert wish_of({}, BOTH).given


@pytest.mark.parametrize(
    ("fields", "media_type", "config"),
    [
        ({"compression": "gzip"}, DOCKER_MANIFEST, DOCKER_CONFIG),
        ({"oci-mediatypes": "true"}, MANIFEST, CONFIG),
        ({"annotation.a": "b"}, MANIFEST, CONFIG),
        ({"compression": "zstd", "oci-mediatypes": "false"}, MANIFEST, CONFIG),
    ],
)
def test_docker_has_no_words_for_some_of_it(fields: dict[str, str], media_type: str, config: str) -> None:
    manifest = manifest_of(wish_of(fields, BOTH[:1]), CONFIG_BLOB, LAYERS, "linux/amd64")
    found = json.loads(manifest.data)
    assert (manifest.media_type, found["mediaType"], found["config"]["mediaType"]) == (
        media_type,
        media_type,
        config,
    )


def test_annotations_are_where_they_belong() -> None:
    fields = {
        "annotation.all": "1",
        "annotation-manifest[linux/arm64].arm": "2",
        "annotation-index.index": "3",
        "annotation-manifest-descriptor.both": "4",
        "annotation-manifest-descriptor[linux/amd64].amd": "5",
    }
    wish = wish_of(fields, BOTH)
    manifests = [manifest_of(wish, CONFIG_BLOB, LAYERS, platform) for platform in BOTH]
    assert [json.loads(each.data)["annotations"] for each in manifests] == [
        {"all": "1"},
        {"all": "1", "arm": "2"},
    ]
    platforms = [Platform(os="linux", architecture=text.partition("/")[2]) for text in BOTH]
    index = json.loads(index_of(wish, list(zip(platforms, BOTH, manifests, strict=True))))
    assert index["annotations"] == {"index": "3"}
    assert [each["annotations"] for each in index["manifests"]] == [{"both": "4", "amd": "5"}, {"both": "4"}]
    assert [each["platform"]["architecture"] for each in index["manifests"]] == ["amd64", "arm64"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"annotation-index.a": "b"}, "index annotations not supported for single platform export"),
        ({"annotation-bundle.a": "b"}, "unknown annotation type"),
        ({"annotation-manifest[linux/arm64].a": "b"}, "the platform is not built"),
        ({"compression": "lz4"}, "unsupported compression type lz4"),
        ({"compression-level": "max"}, "non-integer value max"),
    ],
)
def test_what_cannot_be_is_said(fields: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        wish_of(fields, BOTH[:1])

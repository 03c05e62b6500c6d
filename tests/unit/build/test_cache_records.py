"""Records of caches: what is written is read again; what anybody wrote counts where it makes sense."""

import msgspec
import pytest

from proa.engine.builds.records import Blob, Offer, Records, inline, read_config, read_inline
from proa.errors import InvalidParameter
from proa.schema.oci import Descriptor
from proa.schema.reference import Digest


def blob(name: str) -> Blob:
    digest = "sha256:" + name * 64
    diff_id = Digest("sha256:" + name * 63 + "0")
    return Blob(Descriptor(media_type="layer", digest=digest, size=1), diff_id)


A, B, C = blob("a"), blob("b"), blob("c")


def test_what_is_written_is_read_again() -> None:
    records = Records()
    offers = {
        "1" * 64: Offer((A,), 1_000_000_000),
        "2" * 64: Offer((A, B), 2_000_000_000),
        "3" * 64: Offer((C, B), 3_000_000_000),
        "4" * 64: Offer((B,), 4_000_000_000, alone=True),
    }
    for key, offer in offers.items():
        records.add(key, offer)
    assert records.blobs == [A, B, C]
    assert (
        read_config(records.config(), {each.descriptor.digest: each.descriptor for each in (A, B, C)})
        == offers
    )


def test_the_form_is_buildkits() -> None:
    records = Records()
    records.add("1" * 64, Offer((A, B), 1_000_000_000))
    config = msgspec.json.decode(records.config())
    assert config == {
        "layers": [
            {"blob": A.descriptor.digest, "parent": -1, "annotations": {"diffID": A.diff_id}},
            {"blob": B.descriptor.digest, "annotations": {"diffID": B.diff_id}},
        ],
        "records": [
            {"digest": "sha256:" + "1" * 64, "layers": [{"layer": 1, "createdAt": "1970-01-01T00:00:01Z"}]}
        ],
    }


def test_an_image_has_its_layers_by_place() -> None:
    text = inline([("1" * 64, 1, 1_000_000_000, False), ("2" * 64, 2, 2_000_000_000, True)])
    assert read_inline(text, [A, B, C]) == {
        "1" * 64: Offer((A, B), 1_000_000_000),
        "2" * 64: Offer((C,), 2_000_000_000, alone=True),
    }
    assert set(read_inline(text, [A])) == set()


@pytest.mark.parametrize(
    "parents",
    [
        pytest.param([1, 0], id="a circle"),
        pytest.param([7, -1], id="a place that is none"),
        pytest.param([0, -1], id="its own parent"),
        pytest.param([-2, -1], id="below none"),
    ],
)
def test_layers_that_lead_nowhere_offer_nothing(parents: list[int]) -> None:
    layers = [
        {"blob": each.descriptor.digest, "parent": parent, "annotations": {"diffID": each.diff_id}}
        for each, parent in zip((A, B), parents, strict=True)
    ]
    records = [{"digest": "sha256:" + "1" * 64, "layers": [{"layer": 0}]}]
    known = {each.descriptor.digest: each.descriptor for each in (A, B)}
    assert read_config(msgspec.json.encode({"layers": layers, "records": records}), known) == {}


def test_layers_that_the_manifest_has_not_offer_nothing() -> None:
    records = Records()
    records.add("1" * 64, Offer((A, B), 1))
    assert read_config(records.config(), {A.descriptor.digest: A.descriptor}) == {}


@pytest.mark.parametrize("text", ["not base64!", "bm90IGpzb24=", "e30=", "W3siZGlnZXN0IjogMX1d"])
def test_what_is_no_cache_says_so(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid inline cache"):
        read_inline(text, [A])


def test_a_diff_id_that_is_no_digest_is_refused() -> None:
    layer = {"blob": A.descriptor.digest, "parent": -1, "annotations": {"diffID": "../../etc"}}
    with pytest.raises(InvalidParameter):
        read_config(msgspec.json.encode({"layers": [layer]}), {A.descriptor.digest: A.descriptor})

"""What a client's directories are kept by."""

from proa.buildkit.jobs import _place_of


def test_a_directory_is_found_again_by_its_own_client_only() -> None:
    assert _place_of("k", "context") == _place_of("k", "context")
    pairs = [("k", "a b"), ("b k", "a"), ("k a", "b"), ("1 k", "a"), ("k", "a"), ("", "a"), ("", "k a")]
    assert len({_place_of(*pair) for pair in pairs}) == len(pairs)
    assert _place_of("", "context") != _place_of("", "context")

"""Only the exact cluster token opens an inner call."""

import pytest

from shoal.instance.auth import TOKEN_KEY, has_token, token_metadata


def test_what_a_peer_sends_is_accepted_by_the_other_side() -> None:
    assert has_token(token_metadata("secret"), "secret")
    assert has_token([("user-agent", "x"), *token_metadata("secret")], "secret")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [],
        [("other", "secret")],
        [(TOKEN_KEY, "")],
        [(TOKEN_KEY, "secre")],
        [(TOKEN_KEY, "secret ")],
        [(TOKEN_KEY, "Secret")],
        [(TOKEN_KEY, "wrong"), (TOKEN_KEY, "secret")],
        [(TOKEN_KEY, "s\u00e9cret")],
    ],
)
def test_anything_else_is_turned_away(metadata: list[tuple[str, str]] | None) -> None:
    assert not has_token(metadata, "secret")


def test_bytes_compare_as_their_text() -> None:
    assert has_token([(TOKEN_KEY, b"secret")], "secret")
    assert not has_token([(TOKEN_KEY, b"\xff")], "secret")

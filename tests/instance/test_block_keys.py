"""Block names: equal for equal content, everywhere; different for anything else."""

from shoal.instance.block_keys import ListedKeys, TokenKeys, block_hashes


def test_block_names_are_a_chain_over_tokens_salt_and_adapter() -> None:
    plain = block_hashes([1, 2, 3, 4, 5, 6, 7, 8, 9], 4)
    assert len(set(plain)) == 2
    assert block_hashes([1, 2, 3, 4, 5, 6, 7, 9], 4)[0] == plain[0]
    assert block_hashes([9, 2, 3, 4, 5, 6, 7, 8], 4)[1] != plain[1]
    for other in ({"salt": "t"}, {"lora": "x"}):
        assert not set(plain) & set(block_hashes([1, 2, 3, 4, 5, 6, 7, 8], 4, **other))


def test_names_are_the_same_in_every_process() -> None:
    (name,) = block_hashes([1, 2], 2, salt="t", lora="x")
    assert name.hex() == "3e2b42148a4132c981d425aa01f688284e0615004dc1cff826f5d9c628d64715"


def test_a_growing_text_keeps_the_names_it_has() -> None:
    tokens = [1, 2, 3]
    keys = TokenKeys(tokens, 2)
    first = list(keys.first(5))
    tokens += [4, 5]
    assert list(keys.first(5)) == block_hashes([1, 2, 3, 4, 5], 2)
    assert list(keys.first(5))[:1] == first


def test_no_more_names_are_made_than_asked_for() -> None:
    assert len(TokenKeys(list(range(100)), 2).first(3)) == 3


def test_listed_names_end_where_the_list_ends() -> None:
    assert list(ListedKeys(["a", "b"]).first(9)) == ["a", "b"]

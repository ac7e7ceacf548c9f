from shoal.router.rank import Rank, rank_of


def test_there_are_three_classes_and_whoever_says_nothing_is_in_the_middle():
    assert [rank_of(p) for p in (-9, -1, 0, 1, 9)] == [Rank.HIGH, Rank.HIGH, Rank.NORMAL, Rank.LOW, Rank.LOW]
    assert sorted([Rank.LOW, Rank.HIGH, Rank.NORMAL]) == [Rank.HIGH, Rank.NORMAL, Rank.LOW]

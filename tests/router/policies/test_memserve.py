"""MemServe's prompt tree: longest match, then least load."""

from shoal.router.contract import InstanceLoad
from tests.tools.routing import chosen, view_of


def test_one_block_more_beats_any_load():
    view = view_of(a=(InstanceLoad(running=200), 6), b=(InstanceLoad(), 5))
    assert chosen("memserve_prompt_tree", view) == {"a"}


def test_equal_matches_go_to_the_least_load():
    view = view_of(a=(InstanceLoad(running=2), 5), b=(InstanceLoad(running=1), 5), c=(InstanceLoad(), 4))
    assert chosen("memserve_prompt_tree", view) == {"b"}


def test_no_match_anywhere_goes_to_the_least_load():
    view = view_of(a=(InstanceLoad(running=2), 0), b=(InstanceLoad(waiting=1), 0))
    assert chosen("memserve_prompt_tree", view) == {"b"}

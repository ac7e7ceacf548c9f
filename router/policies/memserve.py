"""The global prompt tree of MemServe: the longest cached prefix first; among equals the least load."""

from __future__ import annotations

from shoal.router.snapshot import Floats, Question


def memserve_prompt_tree(question: Question) -> Floats:
    """Missing tokens; the share of requests, below 1, decides between equals."""
    requests = question.snapshot.requests
    missed = question.request.context_tokens - question.cached_tokens
    return missed + requests / (requests.max() + 1)


__all__ = ["memserve_prompt_tree"]

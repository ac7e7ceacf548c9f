"""Bytes of KV blocks, between one worker's tensors and plain memory, in one pass that holds neither the step thread nor
the interpreter's lock.

The bytes of a block are, in this order: rank, layer, and within a layer whatever `tensor[block]` is, so that every
memory order that vLLM may choose gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

WORD = torch.int32  # KV data of any type moves as this, unread


class BlockCopier:
    """The KV tensors of worker `rank` of `ranks`, one per layer and all alike: (blocks, heads, tokens, head size)."""

    def __init__(self, layers: Sequence[torch.Tensor], *, ranks: int = 1, rank: int = 0) -> None:
        if len({(layer.shape, layer.dtype) for layer in layers}) != 1:
            raise ValueError("layers of different shapes")
        self.layers = [layer.view(WORD) for layer in layers]
        self.rank = rank
        self.shape = (ranks, len(layers), *self.layers[0].shape[1:])
        self.block_bytes = WORD.itemsize * torch.Size(self.shape).numel()

    def gather(self, block_ids: Sequence[int], into: Any) -> None:
        """This rank's part of those blocks. `into`: writable, len(block_ids) * block_bytes."""
        ids, plain = self._views(block_ids, into)
        with torch.inference_mode():
            for number, layer in enumerate(self.layers):
                torch.index_select(layer, 0, ids, out=plain[:, number])

    def scatter(self, block_ids: Sequence[int], data: Any) -> None:
        writable = bytearray(data) if memoryview(data).readonly else data  # torch warns of what it might write to
        ids, plain = self._views(block_ids, writable)
        with torch.inference_mode():
            for number, layer in enumerate(self.layers):
                layer.index_copy_(0, ids, plain[:, number])

    def close(self) -> None:
        """The tensors are the worker's."""

    def _views(self, block_ids: Sequence[int], memory: Any) -> tuple[torch.Tensor, torch.Tensor]:
        whole = torch.frombuffer(memory, dtype=WORD, count=len(block_ids) * self.block_bytes // WORD.itemsize)
        return torch.tensor(block_ids), whole.view(len(block_ids), *self.shape)[:, self.rank]


def copy_bytes(source: Any, into: Any, size_bytes: int) -> None:
    """Like a slice assignment, but others may run meanwhile."""
    target = torch.frombuffer(into, dtype=torch.uint8, count=size_bytes)
    target.copy_(torch.frombuffer(source, dtype=torch.uint8, count=size_bytes))


__all__ = ["BlockCopier", "copy_bytes"]

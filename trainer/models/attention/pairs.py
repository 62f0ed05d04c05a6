"""Pairs: the layouts of queries and keys, and which queries see which keys."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from trainer.models.flat_rows import Group
from trainer.models.packing import Layout
from trainer.models.paired_groups import paired_groups


@dataclass(frozen=True)
class Pairs:
    """The layouts of queries and keys; queries of sequence i see the keys of sequence i.

    Created once per call to the model, so that all layers share its groups.
    """

    queries: Layout
    keys: Layout
    causal: bool = False
    """Whether queries do not see later keys. The queries are then the last tokens of the keys'
    sequences: all tokens, or only the new tokens if the others are cached
    """
    window: int | None = None
    """The largest distance, in columns of the caller's grid, from a query to a key that it sees;
    with a window, the queries and keys belong to the same tokens
    """

    @cached_property
    def groups(self) -> list[tuple[Group, Group, int]]:
        """Groups of sequences of similar lengths, with the offset of the queries in their keys."""
        if self.queries is self.keys:  # the layout keeps its groups for all layers
            return [(group, group, 0) for group in self.queries.length_groups]
        return paired_groups(self.queries, self.keys, aligned_at_end=self.causal)

    @property
    def longest(self) -> int:
        """n: the distance between a query and a key is below n in both directions."""
        return max(self.queries.longest, self.keys.longest)

    @cached_property
    def mask(self) -> Tensor | None:
        """`find_mask`, computed once for all layers."""
        return self.find_mask()

    def find_mask(self) -> Tensor | None:
        """[B or 1, H or 1, L, L], the mask of a layout that needs one; None: no mask."""
        layout = self.keys
        if not layout.needs_mask:
            return None
        found = (layout.causal_pairs if self.causal else layout.visible_pairs)(self.window)
        return None if found is None else found.expand(-1, -1, layout.longest, -1)

    @cached_property
    def columns(self) -> Tensor | None:
        """[T], each token's column in the caller's grid; None: there is no window, or no gap."""
        cells, width = self.keys.cells, self.keys.width
        if self.window is None or cells is None or width is None or not self.keys.has_gaps:
            return None
        return cells % width

"""TextEnds: a vocabulary that can add bos before, and eos after, each text."""

import logging

from tokenizers import processors

from trainer.tokenizer import layouts
from trainer.tokenizer.hub_names import HubNames

log = logging.getLogger("trainer")


class TextEnds(HubNames):
    """A vocabulary with `add_bos_token` and `add_eos_token`, as in transformers' tokenizers.

    If one of them is changed, bos and eos are the only special tokens around texts. The change is
    saved in tokenizer.json.
    """

    @property
    def add_prefix_space(self) -> bool:
        """Whether a byte-level tokenizer encodes the first word of a text like other words."""
        own = bool(self.config.get("add_prefix_space"))
        return bool(layouts.options(self.backend).get("add_prefix_space", own))

    @property
    def add_bos_token(self) -> bool:
        """Whether each text begins with bos."""
        return self._is_added(0, self.bos_token_id)

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        if value != self.add_bos_token:
            self._put_ends(value, self.add_eos_token)

    @property
    def add_eos_token(self) -> bool:
        """Whether each text ends with eos."""
        return self._is_added(-1, self.eos_token_id)

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        if value != self.add_eos_token:
            self._put_ends(self.add_bos_token, value)

    def _is_added(self, place: int, token: int | None) -> bool:
        """Whether this token is added to each text at the first (0) or last place (-1)."""
        row = self.sample_row()
        # the sample itself may be a special token, or an unknown one with the id of eos
        return bool(row.ids) and row.ids[place] == token and bool(row.special_tokens_mask[place])

    def _put_ends(self, bos: bool, eos: bool) -> None:
        """Add bos before, and eos after, each text; warns of a role that has no token."""
        wanted = {"bos_token": bos, "eos_token": eos}
        for role in [role for role, wants in wanted.items() if wants and not getattr(self, role)]:
            log.warning("tokenizer: add_%s has no effect: there is no %s", role, role)
            wanted[role] = False
        first = f"{self.bos_token}:{{0}} " if wanted["bos_token"] else ""
        last = f" {self.eos_token}:{{0}}" if wanted["eos_token"] else ""
        text = f"{first}${{1}}:{{0}}{last}"
        single, second = text.format(0, "A"), text.format(1, "B")
        tokens = [(getattr(self, r), getattr(self, f"{r}_id")) for r in wanted if wanted[r]]
        self.backend.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} {second}", special_tokens=tokens
        )

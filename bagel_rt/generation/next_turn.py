"""What comes after a text: a picture, another text, or the end and why."""

from __future__ import annotations

from collections.abc import Callable

from bagel_rt.errors import InputError
from bagel_rt.generation.turns import Written
from bagel_rt.styles.style import TurnRules

PICTURE, TEXT = "picture", "text"
# why a loop stopped
ANSWERED, NOT_ASKED, PICTURES, TURNS = "answered", "no picture was asked for", "max_pictures", "most_turns"
TokenId = Callable[[str], int | None]


class Decider:
    """A style's rule for what comes next. token_id: of a special token's name, None where the tokenizer has none."""

    def __init__(self, rules: TurnRules, token_id: TokenId):
        self._rules = rules
        self._picture, self._end = (
            (_known(key, getattr(rules, key), token_id) for key in ("picture_token", "end_token"))
            if rules.next == "token"
            else (None, None)
        )

    def after(self, written: Written) -> str:
        """PICTURE, TEXT, or why it ends."""
        if any(end in written.text or end == written.stopped_at for end in self._rules.ends):
            return ANSWERED
        match self._rules.next:
            case "always":
                return PICTURE
            case "tag":
                tag = self._rules.picture_tag
                if tag in written.text or tag == written.stopped_at:
                    return PICTURE
                return ANSWERED if self._holds_answer(written.text) else NOT_ASKED
            case "token":
                return {self._picture: PICTURE, self._end: ANSWERED}.get(written.following, TEXT)
        return ANSWERED

    def _holds_answer(self, text: str) -> bool:
        return any(before in text for before, _ in self._rules.answer)


def _known(key: str, name: str, token_id: TokenId) -> int:
    found = token_id(name)
    if found is None:
        raise InputError(f"the style's {key} is {name!r}, which is no token of this model; name one that is")
    return found

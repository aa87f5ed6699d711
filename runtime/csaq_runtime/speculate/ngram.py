"""Drafts by look-up: what followed when the last few tokens stood in the context before.

The longest match decides; where several are equally long, the most frequent continuation. An index
by the last three tokens and by the last one grows with the context, so a look-up takes
microseconds. Contexts of earlier replies stay in it: a reply made again is mostly known already.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.cache import common_prefix
from csaq_runtime.sample import Sampler
from csaq_runtime.speculate.drafter import Draft

MAX_PLACES, MAX_MATCH, MAX_CORPUS = 6, 16, 65536
LONG, SHORT = 3, 1
"""Tokens that a place is found by: first so many, else so few."""

BREAK = (1 << 20) - 1
"""Stands in the corpus where one context ends and another one begins; no vocabulary reaches it."""

_SHIFT, _LONG_MASK = 20, (1 << 60) - 1


class NGramDrafter:
    """Looks the end of the context up in all contexts so far."""

    name, wants_hidden = "ngram", False

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._corpus: list[int] = []
        self._context: list[int] = []
        # Latest place after a key, and for every place the one before it after the same key.
        self._latest_long: dict[int, int] = {}
        self._latest_short: dict[int, int] = {}
        self._earlier_long: list[int] = []
        self._earlier_short: list[int] = []
        self._key, self._begins = _LONG_MASK, False

    def begin(self, sampler: Sampler) -> None:
        """The next context may be any; `sampler` is not needed."""
        self._begins = True

    def propose(self, context: Sequence[int], n: int, hidden: NDArray[np.float32] | None) -> Draft:
        """What followed the longest match, up to `n` tokens; none where nothing matches."""
        self._follow(context)
        place, strength, share = self._best_place()
        if place < 0:
            return Draft()
        ids = self._continuation(place, n)
        # The longer the match and the more continuations agree, the nearer to 1.
        confidence = [1 - 1 / (1 + (strength + i) * share) for i in range(len(ids))]
        return Draft(ids, None, confidence)

    def _follow(self, context: Sequence[int]) -> None:
        """Bring corpus and index up to `context`."""
        if len(self._corpus) > MAX_CORPUS:
            self._forget()
        if self._begins:
            kept = common_prefix(self._context, context)
            if kept < len(self._context):
                del self._context[kept:]
                self._index([BREAK, *self._context[-MAX_MATCH:]])
            self._begins = False
        fresh = context[len(self._context) :]
        self._index(fresh)
        self._context.extend(fresh)

    def _index(self, ids: Sequence[int]) -> None:
        """Append to the corpus, and note for each token what it follows."""
        corpus, key = self._corpus, self._key
        latest_long, latest_short = self._latest_long, self._latest_short
        earlier_long, earlier_short = self._earlier_long, self._earlier_short
        for end, token in enumerate(ids, len(corpus)):
            short = key & BREAK
            earlier_long.append(latest_long.get(key, -1))
            earlier_short.append(latest_short.get(short, -1))
            latest_long[key] = latest_short[short] = end
            corpus.append(token)
            key = (key << _SHIFT | token) & _LONG_MASK
        self._key = key

    def _best_place(self) -> tuple[int, float, float]:
        """Where the continuation begins, what speaks for it, and the share of places that agree.

        (-1, 0, 0) where there is none.
        """
        place = self._latest_long.get(self._key, -1)
        if place >= 0:
            return self._elected(place, self._earlier_long, LONG)
        place = self._latest_short.get(self._key & BREAK, -1)
        return self._elected(place, self._earlier_short, SHORT) if place >= 0 else (-1, 0, 0)

    def _elected(self, place: int, earlier: list[int], known: int) -> tuple[int, float, float]:
        """Of the places in the chain from `place` on, the best: see `_best_place`."""
        corpus = self._corpus
        longest, voters, n_place = 0, [], 0
        while place >= 0 and n_place < MAX_PLACES:
            match = self._match(place, known)
            if match > longest:
                longest, voters = match, [place]
            elif match == longest:
                voters.append(place)
            place, n_place = earlier[place], n_place + 1
        if len(voters) == 1:
            return voters[0], longest, 1.0
        followers = [corpus[voter] for voter in voters]
        token = max(followers, key=followers.count)
        votes = followers.count(token)
        return voters[followers.index(token)], longest + votes - 1, votes / len(voters)

    def _match(self, place: int, known: int) -> int:
        """How many tokens before `place` equal the corpus' last ones; `known` of them do."""
        corpus, n = self._corpus, known
        most = min(MAX_MATCH, place)
        while n < most and corpus[place - n - 1] == corpus[-n - 1] != BREAK:
            n += 1
        return n

    def _continuation(self, place: int, n: int) -> list[int]:
        """`n` tokens from `place` on; those after the corpus' end repeat the draft itself."""
        ids = self._corpus[place : place + n]
        period = len(self._corpus) - place
        while len(ids) < n:
            ids.append(ids[len(ids) - period])
        return ids[: ids.index(BREAK)] if BREAK in ids else ids

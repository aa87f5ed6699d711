"""Seeded random text made of what tokenizers get wrong: spaces, digits, scripts, special tokens."""

import random
import unicodedata
from collections.abc import Sequence

ATOMS = (
    *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\u00a0", "\u3000", "\u2028", "\x85"),
    *("\x0b", "\u200b", "'s", "'S", "'re", "'LL", "'d", "'", "’s", "a", "I", "hello", "World"),
    *("HELLO", "camelCase", "über", "ÉCOLE", "naïve", "e\u0301", "1", "12", "123", "1234567"),
    *("٣٤", "½", "Ⅷ", "²", "!", "?!", "...", "//", "$", "+", "=>", "^", "`", "~", "|", "_", "#"),
    *("(", "[", "{", "–", "“", "。", "，", "、", "你好", "日本語", "カタカナ", "한국어", "ไทย"),
    *("हिन्दी", "عربى", "עברית", "русский", "ЯБ", "ΑΒγ", "ǅ", "ʰ", "ª", "🙂", "👩\u200d👧", "🇩🇪"),
    *("\x00", "\x01", "\x7f", "▁", "\ufffd", "\ufeff", "\U000e0041", "𝒳", "𐐀", "㐀", "﷽"),
    *("<0x41>", "<s>", "</s>"),
)


def random_texts(seed: int, count: int, specials: Sequence[str] = ()) -> list[str]:
    """`count` texts of 1 to 14 parts each; `specials` are mixed in."""
    source = random.Random(seed)
    return [
        "".join(_part(source, specials) for _ in range(source.randint(1, 14))) for _ in range(count)
    ]


def _part(source: random.Random, specials: Sequence[str]) -> str:
    kind = source.random()
    if kind < 0.1 and specials:
        return source.choice(specials)
    if kind < 0.2:
        return _assigned_character(source)
    return source.choice(ATOMS)


def _assigned_character(source: random.Random) -> str:
    while True:
        character = chr(source.randint(0x20, 0x2FFFF))
        if unicodedata.category(character) not in ("Cs", "Cn"):
            return character

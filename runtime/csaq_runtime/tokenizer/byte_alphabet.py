"""The 256 printable characters with which byte-level BPE writes bytes (GPT-2, `bytes_to_unicode`).

Printable Latin-1 characters stand for themselves, the other 68 bytes for
U+0100 onwards, in order.
"""

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]

CHARACTER_OF: dict[int, str] = {byte: chr(byte) for byte in sorted(_PRINTABLE)} | {
    byte: chr(0x100 + at) for at, byte in enumerate(_OTHERS)
}
BYTE_OF: dict[str, int] = {character: byte for byte, character in CHARACTER_OF.items()}

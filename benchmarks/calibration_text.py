"""The calibration text of the quality benchmarks: stories and four other sources in turn.

    python benchmarks/calibration_text.py calib.txt

Pieces alternate, so that a tool which reads only the beginning sees the same mixture. Nothing
of it is in the texts on which files are judged (TinyStories' valid.txt, WikiText-2's test).
"""

import sys
from itertools import islice
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SOURCES = (
    "tinystories/train.txt",
    "calibration/wiki.utf8",
    "tinystories/train.txt",
    "calibration/c4.utf8",
    "tinystories/train.txt",
    "calibration/technical.utf8",
    "tinystories/train.txt",
    "calibration/multilingual.utf8",
)
PIECE_CHARS, N_PIECE = 1500, 320


def pieces() -> list[str]:
    """`N_PIECE` texts of about `PIECE_CHARS`, each cut at a line's end, the sources in turn."""
    texts = {name: (DATA / name).read_text(encoding="utf-8") for name in SOURCES}
    starts = dict.fromkeys(SOURCES, 0)
    found = []
    for name in islice(SOURCES * (N_PIECE // len(SOURCES)), N_PIECE):
        end = texts[name].find("\n", starts[name] + PIECE_CHARS)
        piece = texts[name][starts[name] : end]
        starts[name] = end + 1
        found.append(piece.replace("<|endoftext|>", "").strip())
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n\n".join(pieces()) + "\n", encoding="utf-8")

"""The options that benchmarks of conversions share: model, calibration, sizes, texts."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def conversion_parser(
    description: str | None, presets: Sequence[str], chunks: int
) -> argparse.ArgumentParser:
    """A parser with them; `presets` and `chunks` (windows of each text judged) by default."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--presets", nargs="*", default=presets)
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--chunks", type=int, default=chunks)
    return parser

"""SIGKILL in every stage of a conversion, 20 times each: `python -m benchmarks.crash [N]`.

What `make test` does once a stage (tests/export/kill_stages.py), at length.
"""

import sys
import tempfile
from pathlib import Path

from tests.export.kill_stages import main

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, Path(folder))

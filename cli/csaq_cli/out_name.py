"""Where a conversion goes if nobody says: `Qwen3-0.6B-Q4_K_M.gguf`, by GGUF's naming convention."""

import re
from pathlib import Path

# The encoding a GGUF's own name ends in: Qwen3-0.6B-BF16.gguf.
ENCODING = re.compile(r"[-.](?:I?Q\d\w*|TQ\d\w*|B?F16|F32|MXFP4)$", re.IGNORECASE)


def default_name(source: str, type_name: str) -> str:
    """File name for `source` (a folder, a GGUF or a hub name) in `type_name`."""
    path = Path(source)
    base = ENCODING.sub("", path.stem) if path.is_file() else path.resolve().name
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', base).strip('-') or 'model'}-{type_name}.gguf"

"""A model as the converter sees it: named, described, its weights not yet read."""

from dataclasses import dataclass

from csaq_export.metadata import Metadata
from csaq_export.weight import Weight


@dataclass(frozen=True)
class Model:
    """What a source gives: `metadata` without file type, `weights` in file order.

    `notes` tell the user what of the source the GGUF does not carry.
    """

    name: str
    architecture: str
    metadata: Metadata
    weights: tuple[Weight, ...]
    notes: tuple[str, ...] = ()

    def number(self, key: str) -> int:
        """The integer `{architecture}.{key}` of the metadata."""
        return int(self.metadata[f"{self.architecture}.{key}"].value)

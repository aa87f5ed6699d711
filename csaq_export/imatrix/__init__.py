"""llama.cpp's importance matrices: read from GGUF or legacy files, written as GGUF."""

from csaq_export.imatrix.matrix import Entry, Imatrix
from csaq_export.imatrix.read import read_imatrix
from csaq_export.imatrix.use import Importance, read_importance
from csaq_export.imatrix.write import write_imatrix

__all__ = [
    "Entry",
    "Imatrix",
    "Importance",
    "read_imatrix",
    "read_importance",
    "write_imatrix",
]

"""GGUF files: mapped, checked in full on opening, then handed out as metadata and tensors."""

from csaq_runtime.gguf.file import GGUFFile, open_gguf
from csaq_runtime.gguf.metadata import MetadataValue
from csaq_runtime.gguf.tensors import TensorInfo

__all__ = ["GGUFFile", "MetadataValue", "TensorInfo", "open_gguf"]

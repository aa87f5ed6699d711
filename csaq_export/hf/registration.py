"""`import csaq_export` → transformers knows CSAQ folders, without importing transformers for it.

If transformers is loaded already its tables are filled at once; else when it loads the module
that holds them.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

TABLES = "transformers.quantizers.auto"


class _ThenRegister(Loader):
    """Loads the module as `loader` does and registers in it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register()


class _Watch(MetaPathFinder):
    """Sees the import of the tables go by."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != TABLES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


def register_with_transformers() -> None:
    """Fill the tables of transformers, now or when they are loaded."""
    if TABLES in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Watch())


def _register() -> None:
    # Its last lines do it. Where it is what is being imported just now, it gets there by itself.
    import_module("csaq_export.hf.quantizer")

"""Making transformers know the native format after `import steelyard`, whichever of the two is imported first.

Neither torch nor transformers is imported here: where transformers is not loaded yet, a finder waits for its module
of quantizers and registers the format right after that has run.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_WATCHED = "transformers.quantizers.auto"
_PLUGIN = "steelyard.formats.native.transformers_plugin"


def install() -> None:
    """Register the format now if transformers' quantizers are loaded, else as soon as they are.

    May be called any number of times.
    """
    if _WATCHED in sys.modules:
        _register()
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _register() -> None:
    try:
        importlib.import_module(_PLUGIN).register()
    except Exception as error:  # a release of transformers with another interface must still be importable
        warnings.warn(
            f"folders in Steelyard's own format will not load: {type(error).__name__}: {error}", stacklevel=2
        )


class _Watcher(MetaPathFinder):
    """Lets one module be found as usual, but by a loader that registers the format afterwards."""

    def __init__(self) -> None:
        self._searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _WATCHED or self._searching:
            return None
        self._searching = True
        try:
            found = find_spec(fullname)
        finally:
            self._searching = False
        if found is None or found.loader is None:
            return None
        found.loader = _RegisteringLoader(found.loader)
        return found


class _RegisteringLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps the loader it would have had; this one has done its work.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watcher)]
        _register()

"""Making transformers know the native format after `import steelyard`, whichever of the two is imported first.

Neither torch nor transformers is imported here: where a module of transformers that must know of something is not
loaded yet, a finder waits for it and registers that right after it has run.
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

_PLUGINS = {
    "transformers.quantizers.auto": ("transformers_plugin", "register"),
    "transformers.models.auto.configuration_auto": ("composed_config", "register_config"),
    "transformers.models.auto.modeling_auto": ("composed_config", "register_model"),
}
"""By the module of transformers that is waited for: the module of `formats.native` and the function to call."""


def install() -> None:
    """Register with what of transformers is loaded now, and with the rest as soon as it is.

    May be called any number of times.
    """
    for watched in _PLUGINS:
        if watched in sys.modules:
            _register(watched)
    waiting = [watched for watched in _PLUGINS if watched not in sys.modules]
    if waiting and not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher(waiting))


def _register(watched: str) -> None:
    plugin, function = _PLUGINS[watched]
    try:
        getattr(importlib.import_module(f"steelyard.formats.native.{plugin}"), function)()
    except Exception as error:  # a release of transformers with another interface must still be importable
        warnings.warn(
            f"folders in Steelyard's own format will not load: {type(error).__name__}: {error}", stacklevel=2
        )


class _Watcher(MetaPathFinder):
    """Lets some modules be found as usual, but by a loader that registers something afterwards."""

    def __init__(self, waiting: Sequence[str]) -> None:
        self.waiting = set(waiting)
        self._searching: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.waiting - self._searching:
            return None
        self._searching.add(fullname)
        try:
            found = find_spec(fullname)
        finally:
            self._searching.discard(fullname)
        if found is None or found.loader is None:
            return None
        found.loader = _RegisteringLoader(found.loader, self)
        return found


class _RegisteringLoader(Loader):
    def __init__(self, loader: Loader, watcher: _Watcher) -> None:
        self._loader, self._watcher = loader, watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps the loader it would have had; this one has done its work.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._watcher.waiting.discard(module.__name__)
        if not self._watcher.waiting and self._watcher in sys.meta_path:
            sys.meta_path.remove(self._watcher)
        _register(module.__name__)

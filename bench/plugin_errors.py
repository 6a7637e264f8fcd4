"""Whatever a plugin raises becomes one message that names the plugin, and the line of its source that did it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.api import BenchError, PluginError

_HARNESS = Path(__file__).resolve().parent


def plugin_error(error: BaseException, files: Collection[str] = ()) -> str:
    """The error in one line, with its place: the last line of `files` on the way to it, and then where it was raised.

    Lines of the harness and of the import system are no place; without `files` it is the line that raised it.
    """
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return message
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
    own = [frame for frame in frames if frame.filename in files]
    places = [f"{frame.filename}:{frame.lineno}" for frame in (*own[-1:], *frames[-1:])]
    return f"{message} ({', in '.join(dict.fromkeys(places))})" if places else message


@contextmanager
def plugin_errors(what: str, plugin: type) -> Iterator[None]:
    """Turns what a plugin raises inside into a PluginError about `what`; errors of the harness go through."""
    try:
        yield
    except BenchError:
        raise
    # A plugin may raise anything at all, and call sys.exit(): told as its own mistake, with the place
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{what} raised {plugin_error(error, _files(plugin))}: mend it, then give the same command again"
        ) from error


def _is_ours(file: str) -> bool:
    return "importlib" in file or Path(file).is_relative_to(_HARNESS)


def _files(plugin: type) -> set[str]:
    """The source files of a class and of those that it extends."""
    return {str(getattr(sys.modules.get(cls.__module__), "__file__", "")) for cls in plugin.__mro__}

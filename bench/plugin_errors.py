"""Whatever a plugin raises becomes one message that names the plugin, and the line of its source that did it."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from bench.api import BenchError, PluginError
from bench.import_watch import watched_import
from bench.plugin_code import place_of
from bench.process_end import plugin_stays

# What numpy, and what draws on its arrays, say of an array that may only be read
_READ_ONLY = re.compile(r"read-?only|WRITEABLE")


def plugin_error(error: BaseException, files: Collection[str] = ()) -> str:
    """The error in one line, with its place, as `place_of` has it: without `files` it is the line that raised it."""
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return message
    place = place_of(traceback.extract_tb(error.__traceback__), files)
    return f"{message} ({place})" if place else message


@contextmanager
def plugin_errors(what: str, plugin: type) -> Iterator[None]:
    """Turns what a plugin raises inside into a PluginError about `what`; errors of the harness go through."""
    try:
        with plugin_stays(what):
            yield
    except BenchError:
        raise
    # A plugin may raise anything at all, and call sys.exit(): told as its own mistake, with the place
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} raised {plugin_error(error, _files(plugin))}: {_mend(error)}") from error


@contextmanager
def import_errors(origin: str) -> Iterator[None]:
    """Turns whatever goes wrong while a plugin's module is imported into a PluginError that names its `origin`.

    An import that hangs ends the process, as `watched_import` has it.
    """
    try:
        with plugin_stays(origin), watched_import(origin):
            yield
    except (Exception, SystemExit) as error:  # a plugin's module may raise anything at all
        raise PluginError(f"{origin} cannot be imported: {plugin_error(error)}") from error


def _mend(error: BaseException) -> str:
    if not isinstance(error, OSError) and _READ_ONLY.search(str(error)):
        return "pictures are read-only, for others look at them too: let it draw on a copy, images.copy()"
    return "mend it, then give the same command again"


def _files(plugin: type) -> set[str]:
    """The source files of a class and of those that it extends."""
    return {str(getattr(sys.modules.get(cls.__module__), "__file__", "")) for cls in plugin.__mro__}

"""The worker's side: runs functions of one worker file for its parent, until that ends. A script of any environment.

    python -P worker_main.py WORKER_FILE [THREADS [MEMORY_MIB]]

A request is one line of JSON, {"function": name, "arguments": {name: value}, "pictures": [B, H, W, 3] or null}, and
then the bytes of the pictures (uint8, row by row), where there are some. The response is one line of JSON too,
{"result": ...} or {"error": text}. What the worker prints goes to standard error, where it cannot be taken for one.

This file imports nothing of the harness: the environment it runs in need not have it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import resource
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

_POLL_SECONDS = 0.5


def run_worker(worker: Path, threads: int = 1, memory_mib: int | None = None) -> None:
    """Load the worker file and serve the requests on standard input."""
    incoming, responses = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.register_at_fork(after_in_child=lambda: _close(incoming.fileno(), responses.fileno()))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if memory_mib is not None:
        # Of what is private and written to. RLIMIT_AS would count files that are only mapped (weights), and the
        # hundreds of gigabytes of addresses that CUDA reserves and never fills
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mib << 20, memory_mib << 20))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before the worker file imports what reads it
    serve_requests(_import_file(worker), incoming, responses)


def serve_requests(module: ModuleType, incoming: BinaryIO, responses: BinaryIO) -> None:
    """Call the function of `module` that each request names, in order, and write what it returns or raises."""
    for line in iter(incoming.readline, b""):
        request = json.loads(line)
        arguments = dict(request["arguments"])
        if request["pictures"] is not None:
            arguments["images"] = _read_images(incoming, request["pictures"])
        try:
            response = json.dumps({"result": getattr(module, request["function"])(**arguments)})
        except Exception as error:  # a scorer may raise anything at all; the parent reports it
            place = traceback.extract_tb(error.__traceback__)[-1]
            response = json.dumps({"error": f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"})
        responses.write(response.encode() + b"\n")
        responses.flush()


def _read_images(incoming: BinaryIO, shape: list[int]) -> np.ndarray:
    data = incoming.read(math.prod(shape))
    return np.frombuffer(data, np.uint8).reshape(shape)


def _close(*descriptors: int) -> None:
    """In a copy that the scorer has forked: it would serve the parent's requests too, and outlive what it came from."""
    for descriptor in descriptors:
        os.close(descriptor)


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("worker", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _end_with_parent(parent: int) -> None:
    """End as soon as the parent has: a call that never returns would not notice that nobody waits for it."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    run_worker(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:4]))

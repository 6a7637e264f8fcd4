"""The worker's side: answers calls of one worker file, until its parent goes. Run as a script, in any environment.

    python -P child.py WORKER_FILE [THREADS [MEMORY_MIB]]

A request is one line of JSON, {"call": function, "words": {argument: value}, "pictures": [B, H, W, 3] or null}, and
then the bytes of the pictures (uint8, row by row), where there are some. The answer is one line of JSON too,
{"result": ...} or {"error": text}. What the worker prints goes to standard error, where it is not taken for an answer.

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

_LOOK_SECONDS = 0.5


def main(worker: Path, threads: int = 1, memory_mib: int | None = None) -> None:
    """Load the worker file and answer its parent."""
    incoming, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if memory_mib is not None:
        # Of what is private and written to. RLIMIT_AS would count files that are only mapped (weights), and the
        # hundreds of gigabytes of addresses that CUDA reserves and never fills
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mib << 20, memory_mib << 20))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before the worker file imports what reads it
    answer_calls(_imported(worker), incoming, answers)


def answer_calls(module: ModuleType, incoming: BinaryIO, answers: BinaryIO) -> None:
    """Answer every request by the function of `module` that it names, in order."""
    for line in iter(incoming.readline, b""):
        request = json.loads(line)
        words = dict(request["words"])
        if request["pictures"] is not None:
            words["images"] = _pictures(incoming, request["pictures"])
        try:
            answer = json.dumps({"result": getattr(module, request["call"])(**words)})
        except Exception as error:  # a scorer may raise anything at all; its parent tells it
            place = traceback.extract_tb(error.__traceback__)[-1]
            answer = json.dumps({"error": f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"})
        answers.write(answer.encode() + b"\n")
        answers.flush()


def _pictures(incoming: BinaryIO, shape: list[int]) -> np.ndarray:
    data = incoming.read(math.prod(shape))
    return np.frombuffer(data, np.uint8).reshape(shape)


def _imported(worker: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("worker", worker)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _end_with_parent(parent: int) -> None:
    """End as soon as the parent has: a call that never returns would not notice that nobody waits for it."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:4]))

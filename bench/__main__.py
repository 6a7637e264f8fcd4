"""`python -m bench`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # before and after a command, Ctrl-C ends without a word

from bench.cli.main import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())

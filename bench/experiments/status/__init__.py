"""How far runs are, read from results folders: `view` reads, `command` shows."""

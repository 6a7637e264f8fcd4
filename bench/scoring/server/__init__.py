"""Scorers behind HTTP, for another GPU or another machine: the server, and the reward that is scored there."""

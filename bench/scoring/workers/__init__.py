"""Scorers apart from the training process: in a process, and where they need it an environment, of their own."""

"""Scorers outside the training process: in a worker process, and where they need it an environment, of their own."""

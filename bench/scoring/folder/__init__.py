"""`bench score`: the pictures of a folder, judged by any of the scorers; useful without a run."""

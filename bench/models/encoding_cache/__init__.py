"""What was encoded once, pictures and texts, kept on disk for every method, seed, task and run that needs it again."""

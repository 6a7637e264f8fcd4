"""One cell's training: its stages, the environment a method works in, the optimiser, checkpoints."""

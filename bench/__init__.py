"""A comparative benchmark harness for post-training text-to-image diffusion models."""

__version__ = "0.1.0"

"""The embedded world: procedurally drawn scenes with captions, exact metadata and an exact reader."""

"""The families of rectified-flow models, one file each: all that the harness has to know of a kind of pipeline."""

"""The pre-training recipe of the embedded world: autoencoder, text encoders, proxy scorers, diffusion transformer."""

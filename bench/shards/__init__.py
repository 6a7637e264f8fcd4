"""A denoiser whose weights, gradients and optimiser's state several processes share out, by torch's FSDP2."""

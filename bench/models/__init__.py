"""The model under training: how it is loaded, held, adapted and driven."""

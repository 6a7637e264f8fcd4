"""Captioned pictures of the user's own: reading, inspecting, preparing and choosing them."""

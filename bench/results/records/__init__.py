"""What a run writes down, and what made its numbers."""

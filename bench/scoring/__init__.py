"""Rewards as the harness calls them: checked, summed, named."""

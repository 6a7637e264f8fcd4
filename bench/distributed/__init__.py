"""Processes: those that work side by side, locks between them, and what ends one that hangs."""

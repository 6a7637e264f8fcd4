"""What to compare: settings, presets, and strict reading of both."""

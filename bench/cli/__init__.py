"""What the command line offers: its commands, their options, and the work of those that need no folder of their own."""

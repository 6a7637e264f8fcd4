"""The command line: a module for each command, and those that find commands and read what several of them share."""

"""`bench rehearse`: every method, evaluation and checkpoint at full size with random weights, timed and weighed."""

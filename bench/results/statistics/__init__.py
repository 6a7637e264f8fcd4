"""From per-sample scores to intervals and verdicts."""

"""One attempt at a job: heartbeat, progress, stored stages, cache."""

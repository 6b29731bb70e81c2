"""What keeps the service running: sweeper, supervisor, migration, metrics."""

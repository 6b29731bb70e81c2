"""The command line: the client's commands, and the service's where it is installed."""

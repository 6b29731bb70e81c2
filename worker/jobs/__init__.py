"""A file for each kind of job."""

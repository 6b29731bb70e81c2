"""Models: their rows, versions and reference pools."""

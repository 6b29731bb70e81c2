"""What the documentation claims about speed, measured: `make bench`. Timings are never tests."""

"""Coverage-guided fuzzing of every parser of untrusted bytes: `make fuzz`."""

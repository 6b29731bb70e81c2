"""Datasets: their rows, samples and canaries."""

"""Data: sources, decoding, samples on a device, training sets."""

"""What a client would rather have."""

from __future__ import annotations


def prefers(wanted: str, accept: str) -> bool:
    """Whether `wanted` is weighted above `application/json` in an Accept header."""
    weights = {wanted: 0.0, "application/json": 0.0}
    for part in accept.split(","):
        media, *params = (piece.strip() for piece in part.split(";"))
        quality = next((p[2:] for p in params if p.startswith("q=")), "1")
        if media in weights:
            weights[media] = float(quality) if quality.replace(".", "", 1).isdigit() else 0.0
    return weights[wanted] > weights["application/json"]

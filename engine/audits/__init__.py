"""Audits: functions of logits and positions to scores, measurements and a verdict."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
"""Of samples in their dataset, sorted."""

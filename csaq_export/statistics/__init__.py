"""Forward and backward over calibration text → salience, coactivation and curvature."""

from csaq_export.statistics.collect import (
    EMBEDDING,
    HEAD,
    Collection,
    Statistics,
    collect,
    layer_part,
)
from csaq_export.statistics.linear import LinearStatistics

__all__ = [
    "EMBEDDING",
    "HEAD",
    "Collection",
    "LinearStatistics",
    "Statistics",
    "collect",
    "layer_part",
]

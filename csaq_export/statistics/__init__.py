"""Forward and backward over calibration text → salience, coactivation and curvature."""

from csaq_export.statistics.collect import collect
from csaq_export.statistics.elements import element_salience
from csaq_export.statistics.linear import LinearStatistics
from csaq_export.statistics.rounds import collect_until_stable, windows_of
from csaq_export.statistics.stages import EMBEDDING, HEAD, Collection, Statistics, layer_part

__all__ = [
    "EMBEDDING",
    "HEAD",
    "Collection",
    "LinearStatistics",
    "Statistics",
    "collect",
    "collect_until_stable",
    "element_salience",
    "layer_part",
    "windows_of",
]

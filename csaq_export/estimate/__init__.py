"""What a conversion will take: time, memory and disk per stage, from shapes and a short trial."""

from csaq_export.estimate.conversion import estimate_conversion
from csaq_export.estimate.plain import estimate_plain
from csaq_export.estimate.stage import Estimate, Stage

__all__ = ["Estimate", "Stage", "estimate_conversion", "estimate_plain"]

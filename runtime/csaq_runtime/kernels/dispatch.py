"""Weight type → kernel addresses, compiled or loaded on first use."""

from dataclasses import dataclass
from functools import cache

from csaq_runtime.formats import GGMLType
from csaq_runtime.kernels.activation import Activation
from csaq_runtime.kernels.activation_pack import build_pack_module
from csaq_runtime.kernels.block32_tiles import BLOCK_32_FORMATS
from csaq_runtime.kernels.compile import load_module
from csaq_runtime.kernels.float_tiles import BF16_FORMAT, F16_FORMAT, F32_FORMAT
from csaq_runtime.kernels.k_tiles import K_FORMATS
from csaq_runtime.kernels.module import build_module
from csaq_runtime.kernels.plane_tiles import BF16_DRAFT, BF16_PLANES, Q8_0_DRAFT, Q8_0_PLANES
from csaq_runtime.kernels.signed_tiles import CODES_16_FORMAT, IQ4_XS_FORMAT
from csaq_runtime.kernels.tile import WeightFormat
from csaq_runtime.simd.target import Target, host_target

_FORMATS = {
    GGMLType[fmt.name]: fmt
    for fmt in (
        F32_FORMAT,
        F16_FORMAT,
        BF16_FORMAT,
        *BLOCK_32_FORMATS,
        *K_FORMATS,
        IQ4_XS_FORMAT,
    )
}

EXPANDED_TYPES = frozenset(
    {
        GGMLType.IQ1_S,
        GGMLType.IQ1_M,
        GGMLType.IQ2_XXS,
        GGMLType.IQ2_XS,
        GGMLType.IQ2_S,
        GGMLType.IQ3_XXS,
        GGMLType.IQ3_S,
        GGMLType.TQ1_0,
        GGMLType.TQ2_0,
    }
)
"""Types that are expanded to CODES_16 at load (see `signed_tiles`)."""

MATRIX_TYPES = frozenset(_FORMATS) | EXPANDED_TYPES
"""Types a weight matrix may have."""

PLANE_FORMATS = {
    GGMLType.Q8_0: (Q8_0_PLANES, Q8_0_DRAFT),
    GGMLType.BF16: (BF16_PLANES, BF16_DRAFT),
}
"""Types that may be stored in two planes: the formats of all bits, and of the upper ones alone."""

ACTIVATION_NAME = "activation"
"""The packing kernels' name in the object cache."""


@dataclass(frozen=True)
class KernelEntry:
    """Addresses of a weight type's machine code (arguments: `module`, `activation_pack`)."""

    format: WeightFormat
    matmul: int
    interleave: int
    quantize: int

    @property
    def activation(self) -> Activation:
        """What the weights multiply with."""
        return self.format.activation


def weight_format(ggml_type: GGMLType) -> WeightFormat:
    """The interleaved format a type is multiplied in; KeyError for a type without one."""
    return CODES_16_FORMAT if ggml_type in EXPANDED_TYPES else _FORMATS[ggml_type]


def kernel_for(ggml_type: GGMLType) -> KernelEntry:
    """The kernels of a weight type on this CPU (≈ 1 s on the first ever use, then cached)."""
    return kernel_on(weight_format(ggml_type), host_target())


@cache
def kernel_on(fmt: WeightFormat, target: Target) -> KernelEntry:
    """The kernels of a format for a given target, which this CPU must be able to run."""
    address = load_module(fmt.name, target, lambda: build_module(fmt, target))
    quantize = quantize_address(fmt.activation, target)
    return KernelEntry(fmt, address("matmul"), address("interleave"), quantize)


@cache
def quantize_address(kind: Activation, target: Target | None = None) -> int:
    """Address of `quantize_<kind>(x, x_stride, n_col, n_token, out)`."""
    return _pack_entries(target or host_target())[kind]


@cache
def _pack_entries(target: Target) -> dict[Activation, int]:
    address = load_module(ACTIVATION_NAME, target, lambda: build_pack_module(target))
    return {kind: address(f"quantize_{kind.value}") for kind in Activation}

"""Which instruction set code is generated for: from the host CPU, or from Numba's code generator.

Everything in `simd` that chooses between instructions asks a `Target`, so the
choice is always the one the cache keys (ours and Numba's) are made of.
"""

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding as llvm


@dataclass(frozen=True)
class Target:
    """A CPU as LLVM sees it; `features` holds the enabled ones, without their plus sign."""

    triple: str
    cpu: str
    features: frozenset[str]

    @property
    def arch(self) -> str:
        """First part of the triple: `x86_64`, `aarch64`, …"""
        return self.triple.split("-")[0]

    @property
    def is_arm(self) -> bool:
        """64-bit ARM."""
        return self.arch in ("aarch64", "arm64")

    @property
    def has_vnni_512(self) -> bool:
        """`vpdpbusd` and `vpdpwssd` on 64-byte registers."""
        return {"avx512f", "avx512bw", "avx512vnni"} <= self.features

    @property
    def has_vnni_256(self) -> bool:
        """`vpdpbusd` on 32-byte registers: AVX-VNNI, or AVX-512's with VL."""
        return "avxvnni" in self.features or {"avx512vl", "avx512vnni"} <= self.features

    @property
    def has_avx2(self) -> bool:
        """256-bit integer vectors."""
        return "avx2" in self.features

    @property
    def has_mixed_sign_dot(self) -> bool:
        """Multiplies full-range uint8 by int8 exactly (no int16 saturation on the way)."""
        return self.has_vnni_512 or self.has_vnni_256 or (self.is_arm and "i8mm" in self.features)

    @property
    def has_byte_chains(self) -> bool:
        """Multiplies bytes into int16 sums and has nothing better: see `chain`."""
        return self.has_avx2 and not self.has_mixed_sign_dot

    @property
    def has_half_conversion(self) -> bool:
        """Converts float16 in hardware: F16C on x86, always on 64-bit ARM."""
        return self.is_arm or "f16c" in self.features

    @property
    def is_zen(self) -> bool:
        """AMD's cores since 2017, whose own prefetcher nearly reaches the memory's bandwidth."""
        return self.cpu.startswith("znver")

    @property
    def prefetch_distance(self) -> int:
        """Bytes ahead of the weights in use that software prefetch asks for.

        Intel: 8–16 KB measured best (design/kernels.md); AMD Zen 3: 1–8 KB alike (docs/bench.md).
        """
        return 4096 if self.is_zen else 12 * 1024

    @property
    def feature_string(self) -> str:
        """The enabled features in LLVM's spelling, sorted: `+avx2,+fma,…`."""
        return ",".join(f"+{name}" for name in sorted(self.features))


def parse_target(triple: str, cpu: str, features: str) -> Target:
    """Target of an LLVM triple, CPU name and feature string (`+avx2,-avx512f,…`)."""
    enabled = (name[1:] for name in features.split(",") if name.startswith("+"))
    return Target(triple, cpu, frozenset(enabled))


@cache
def host_target() -> Target:
    """The CPU this process runs on.

    `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` override it as they do for Numba,
    so that tests can force a lesser instruction set on both together.
    """
    cpu = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    return parse_target(llvm.get_process_triple(), cpu, features)


def numba_target(context: Any) -> Target:
    """The target of the Numba compilation in progress (`context` of an intrinsic's codegen)."""
    triple, cpu, features = context.codegen().magic_tuple()
    return parse_target(triple, cpu, features)

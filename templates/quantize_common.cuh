// What all FP8 casts share: out = fp8(in * (1 / scale)), scale = max|in| / largest FP8 value. The
// result depends on the values of a block alone, not on which kernel casts it.
#pragma once

#include "base.cuh"
#include "params.cuh"
#include "ptx.cuh"

constexpr u32 kQuantizeThreads = 256;
constexpr float kLargest = kOutE4m3 ? 448.0f : 57344.0f;
constexpr float kSmallestNormal = 1.17549435e-38f;

// 1 for a block of zeros; never subnormal, so that the reciprocal is finite.
KILN_DEVICE float block_scale(float largest) {
  if (largest == 0.0f) return 1.0f;
  float scale = fmaxf(__fdiv_rn(largest, kLargest), kSmallestNormal);
  if constexpr (kPowerOfTwo) {  // up to the next power of two: a carry out of the mantissa
    scale = __uint_as_float((__float_as_uint(scale) + 0x7fffffu) & 0xff800000u);
  }
  return scale;
}

KILN_DEVICE u32 fp8x2(float low, float high) { return cvt_fp8x2<kOutE4m3>(low, high); }

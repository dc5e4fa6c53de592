// Deterministic test data: BF16 values, roughly normal with mean 0 and deviation 1.
#pragma once

#include "base.cuh"
#include "params.cuh"

KILN_DEVICE u64 mix(u64 x) {  // a bijection that spreads every input bit over all output bits
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  return x ^ (x >> 32);
}

// The sum of four 16-bit uniforms has a deviation of 65536 * sqrt(4 / 12).
KILN_DEVICE void fill_normal(const FillParams& p) {
  const u64 stride = static_cast<u64>(gridDim.x) * blockDim.x;
  for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += stride) {
    const u64 bits = mix(mix(p.seed) + i);
    const u32 sum = static_cast<u32>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                     (bits >> 32 & 0xffff) + (bits >> 48));
    const float value = (static_cast<float>(sum) - 131070.0f) * (1.0f / 37837.2f);
    static_cast<u16*>(p.out)[i] = static_cast<u16>((__float_as_uint(value) + 0x8000u) >> 16);
  }
}

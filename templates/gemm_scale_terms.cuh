// 1d1d: the products of row and column scales, made by the tensor cores. Protocol: gemm.cuh.
//
// Each element of a k-block's sum has a factor of its own, sfa[row] * sfb[column]. Multiplied by
// the consumers that is an FP32 instruction for each element beside the one that adds it to its
// total, and while WGMMAs run those instructions, which share the register file with them, are
// what limits 1d1d. So a WGMMA makes the products: m64nNk8 of TF32, a quarter of a k-block's time.
//
// A scale x is split in two: x1 has the upper 11 bits of its significand, x2 the next 11, and what
// is left is less than 2^-21 of x. The four products of two such sums are a row of A with four
// values times a column of B with four. K is 8: the descriptors repeat the four (core matrices 0
// bytes apart along K), and rows hold half their scale. An infinite or NaN scale has one term
// alone, so that Inf * 0 is nowhere but where it was.
#pragma once

#include "gemm_groups.cuh"
#include "gemm_shape.cuh"
#include "pipeline.cuh"

// What TF32 holds of a value.
KILN_DEVICE float upper_bits(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

// The scales of kCount rows or columns that a thread of the splitting warps has.
template <u32 kCount>
struct OwnScales {
  static constexpr u32 kOwn = (kCount + kTermThreads - 1) / kTermThreads;
  float values[kOwn];

  // Calls visit(i, which of the kCount).
  template <class Visit>
  KILN_DEVICE static void for_each(Visit visit) {
    const u32 thread = threadIdx.x - 32;
#pragma unroll
    for (u32 i = 0; i < kOwn; ++i) {
      const u32 which = i * kTermThreads + thread;
      if ((i + 1) * kTermThreads <= kCount || which < kCount) visit(i, which);
    }
  }

  KILN_DEVICE void read(u32 from) {
    for_each([&](u32 i, u32 which) { values[i] = ld_shared_f32(from + which * 4); });
  }

  template <bool kRows>
  KILN_DEVICE void write_terms(u32 to) const {
    bool finite = true;
    for_each([&](u32 i, u32 which) {
      const float x = kRows ? values[i] * 0.5f : values[i];
      const float upper = upper_bits(x), lower = upper_bits(x - upper);
      finite = finite && lower == lower;
      if constexpr (kRows) {
        st_shared_v4_f32(to + which * kTermBytes, upper, upper, lower, lower);
      } else {
        st_shared_v4_f32(to + which * kTermBytes, upper, lower, upper, lower);
      }
    });
    if (finite) return;
    for_each([&](u32 i, u32 which) {
      const float x = values[i];
      if (x - x != 0.f) st_shared_v4_f32(to + which * kTermBytes, x + x, 0.f, 0.f, 0.f);
    });
  }
};

// One of the splitting warps' part of a stage: all is read, then each scale is split.
KILN_DEVICE void split_scales(u32 smem, u32 stage) {
  OwnScales<kBlockM> rows;
  OwnScales<kBlockN> columns;
  rows.read(smem + kSmem.sfa + stage * kSmem.sfa_stage_bytes);
  columns.read(smem + kSmem.sfb + stage * kSmem.sfb_stage_bytes);
  rows.write_terms<true>(smem + kSmem.sfa_terms + stage * kBlockM * kTermBytes);
  columns.write_terms<false>(smem + kSmem.sfb_terms + stage * kBlockN * kTermBytes);
}

// Three warps split the scales that TMA brings into a stage. That they came (scales[s]) also says
// that the stage was handed back, terms and all: the thread that asked for them has seen that.
template <class Params>
KILN_DEVICE void produce_scale_terms(const Params& params, const Work& w, u32 smem) {
  Ring<kStages> ring;
  for_each_tile(params, w, smem, [&](const Site& s) {
#pragma unroll 1
    for (u32 step = 0; step < s.k.blocks; ++step, ring.advance()) {
      wait(smem + kSmem.scales + ring.stage * 8, ring.phase);
      split_scales(smem, ring.stage);
      fence_proxy_async();  // WGMMA reads what these stores wrote
      __syncwarp();
      if (threadIdx.x % 32 == 0) mbarrier_arrive(smem + kSmem.full + ring.stage * 8);
    }
  });
}

// The producer roles of a GEMM: operands by TMA, scales by TMA or cp.async. Protocol: gemm.cuh.
#pragma once

#include "gemm_groups.cuh"
#include "gemm_shape.cuh"
#include "pipeline.cuh"

KILN_DEVICE const TensorMap& map_a(const GemmParams& p, u32) { return p.a; }
KILN_DEVICE const TensorMap& map_a(const PackedGemmParams& p, u32 group) { return p.a[group]; }
KILN_DEVICE const TensorMap& map_b(const GemmParams& p, u32) { return p.b; }
KILN_DEVICE const TensorMap& map_b(const PackedGemmParams& p, u32 group) { return p.b[group]; }

template <bool kSliced>
KILN_DEVICE void load(u32 to, const TensorMap& map, u32 x, u32 y, u32 slice, u32 barrier) {
  if constexpr (kSliced) {
    tma_load_3d(to, map, x, y, slice, barrier);
  } else {
    tma_load_2d(to, map, x, y, barrier);
  }
}

template <bool kSliced>
KILN_DEVICE void load_policy(u32 to, const TensorMap& map, u32 x, u32 y, u32 slice, u32 barrier,
                             u64 policy) {
  if constexpr (kSliced) {
    tma_load_3d_policy(to, map, x, y, slice, barrier, policy);
  } else {
    tma_load_2d_policy(to, map, x, y, barrier, policy);
  }
}

template <bool kSliced>
KILN_DEVICE void load_multicast(u32 to, const TensorMap& map, u32 x, u32 y, u32 slice, u32 barrier,
                                u32 cta_mask) {
  if constexpr (kSliced) {
    tma_load_3d_multicast(to, map, x, y, slice, barrier, static_cast<u16>(cta_mask));
  } else {
    tma_load_2d_multicast(to, map, x, y, barrier, static_cast<u16>(cta_mask));
  }
}

// What one tile's loads have in common, whatever the k-block.
struct Loads {
  const TensorMap *a, *b;
  u32 row, row_b;  // first rows of this CTA's parts of A and B
  u32 column;      // first column of the tile: of SFB under 1d1d
  u32 rows;        // of A: those with valid rows only, in whole boxes
  u32 slice_a, slice_b;
  u32 k, k_scales;  // first k-block in the operands and in the scales
  u64 policy_b;
  bool lone;  // B is this CTA's alone
};

template <class Params>
KILN_DEVICE Loads loads_of(const Params& params, const Work& w, const Site& s) {
  const GemmParams& p = gemm_of(params);
  Loads l;
  l.a = &map_a(params, s.group);
  l.b = &map_b(params, s.group);
  l.row = s.row;
  l.row_b = s.column + w.cta_m * (kBlockN / kClusterM);
  l.column = s.column;
  l.rows = kRowGroups ? align_up(valid_rows(s.row, s.row_end), kBoxRowsA) : kBlockM;
  l.slice_a = s.group;
  l.slice_b = kSlicedB ? slice_of(p, s.group) : 0;
  l.k_scales = s.k.begin;
  l.k = kPacked && s.k.begin != kNowhere ? 0 : s.k.begin;
  // B that is read once or twice leaves L2 first and spares what is used again. H200, L2 flushed:
  // 3 to 9 % at M = 1 and 128; with more reads of B it costs up to 17 %.
  l.policy_b = s.group_tiles <= 2 ? kEvictFirst : kEvictNormal;
  l.lone = s.lone;
  return l;
}

KILN_DEVICE void load_b(const Work& w, u32 smem, u32 stage, const Loads& l, u32 step) {
  constexpr u32 kRows = kBlockN / kClusterM;
  const u32 full = smem + kSmem.full + stage * 8;
  const u32 stage_b = smem + kSmem.b + stage * kSmem.b_stage_bytes;
  const u32 b = stage_b + w.cta_m * kRows * kBlockK;
  const u32 at = w.k_begin + step * kStageBlocks, k = (l.k + at) * kBlockK;
  if (kSize.lone_rows != 0 && kRowGroups && l.lone) {
#pragma unroll
    for (u32 row = 0; row < kBlockN; row += kRows)
      load<kSlicedB>(stage_b + row * kBlockK, *l.b, k, l.column + row, l.slice_b, full);
  } else if constexpr (kClusterM > 1) {  // ranks cta_n * kClusterM + 0, 1, ...
    constexpr u32 kColumn = (1u << kClusterM) - 1;
    load_multicast<kSlicedB>(b, *l.b, k, l.row_b, l.slice_b, full,
                             kColumn << (w.cta_n * kClusterM));
  } else if constexpr (kStageBlocks > 1) {
    tma_load_3d_policy(b, *l.b, 0, l.row_b, at, full, l.policy_b);
  } else {
    load_policy<kSlicedB>(b, *l.b, k, l.row_b, l.slice_b, full, l.policy_b);
  }
}

constexpr u32 kScaleBytes =  // of a stage, by TMA
    (kSfaRowMajor ? 0 : kStageBlocks * kBlockM * 4) + (kColumnScales ? kBlockN * 4 : 0);

KILN_DEVICE void load_scales(const GemmParams& p, u32 smem, u32 stage, const Loads& l, u32 at,
                             u32 barrier) {
  if constexpr (!kSfaRowMajor)
    load<kSlicedA>(smem + kSmem.sfa + stage * kSmem.sfa_stage_bytes, p.sfa, l.row, l.k_scales + at,
                   l.slice_a, barrier);
  if constexpr (kColumnScales)
    tma_load_2d(smem + kSmem.sfb + stage * kSmem.sfb_stage_bytes, p.sfb, l.column, l.k_scales + at,
                barrier);
}

KILN_DEVICE void load_stage(const GemmParams& p, const Work& w, u32 smem, u32 stage, const Loads& l,
                            u32 step, bool has_b) {
  constexpr u32 kFixedBytes = kSmem.b_stage_bytes + (kScaleTerms ? 0 : kScaleBytes);
  constexpr u32 kRowsA = kBlockM / kClusterN;
  const u32 full = smem + kSmem.full + stage * 8;
  const u32 a = smem + kSmem.a + stage * kSmem.a_stage_bytes;
  const u32 at = w.k_begin + step * kStageBlocks, k = (l.k + at) * kBlockK;
  // The rows of all boxes are kept in registers, which one kind of kernel does not have.
  // (Recomputed everywhere, groups lost 1 % on an H200; a rolled loop over the boxes lost 13 %.)
  const u32 first_row = kLabels && kLoadC ? opaque_register(l.row) : l.row;
  if constexpr (kScaleTerms) {  // before the others, as they are split until those have come
    const u32 scales = smem + kSmem.scales + stage * 8;
    mbarrier_arrive_expect_tx(scales, kScaleBytes);
    load_scales(p, smem, stage, l, at, scales);
  }
  mbarrier_arrive_expect_tx(full, kFixedBytes + l.rows * kBlockK * kStageBlocks);
#pragma unroll
  for (u32 box = 0; box < kRowsA / kBoxRowsA; ++box) {
    const u32 row = w.cta_n * kRowsA + box * kBoxRowsA;
    if (kRowGroups && row >= l.rows) break;
    if constexpr (kClusterN > 1) {  // ranks cta_m, cta_m + kClusterM, ...
      constexpr u32 kRow = ((1u << kClusterSize) - 1) / ((1u << kClusterM) - 1);
      load_multicast<kSlicedA>(a + row * kBlockK, *l.a, k, first_row + row, l.slice_a, full,
                               kRow << w.cta_m);
    } else if constexpr (kStageBlocks > 1) {
      tma_load_3d(a, *l.a, 0, first_row, at, full);
    } else {
      load<kSlicedA>(a + row * kBlockK, *l.a, k, first_row + row, l.slice_a, full);
    }
  }
  if (!has_b) load_b(w, smem, stage, l, step);
  if constexpr (!kScaleTerms) load_scales(p, smem, stage, l, at, full);
}

// Arrivals on full[s] besides the TMA thread's: lanes that write column scales, warps with row
// scales, warps that split both.
constexpr u32 kScaleArrivals = (kColumnScales ? 0 : kStageBlocks * kScaleSpan) +
                               (kSfaRowMajor ? 2 : 0) + (kScaleTerms ? kTermWarps : 0);

// One thread.
template <class Params>
KILN_DEVICE void produce_operands(const Params& params, const Work& w, u32 smem) {
  const GemmParams& p = gemm_of(params);
  Ring<kStages> ring;
  bool has_b = kEarlyB;  // the first stage
  for_each_tile(params, w, smem, [&](const Site& s) {
    const Loads l = loads_of(params, w, s);
    const u32 slice = kLayout == kGroupedK ? slice_of(p, s.group) : s.group;
    const u32 steps = kColumnScales ? s.k.blocks : kPartStages;
    const Tile tile{s.row, s.column, s.row_begin, s.row_end, slice, s.group, steps};
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step, ring.advance()) {
      wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);
      if (step < kWarpgroupsK)  // a part's first
        write_tile(smem + kSmem.site + ring.stage * kSiteBytes, tile);
      load_stage(p, w, smem, ring.stage, l, step, kEarlyB && has_b);
      has_b = false;
    }
  });
  griddepcontrol_launch_dependents();
  for (u32 part = 0; part < kWarpgroupsK; ++part, ring.advance()) {
    wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);
    write_tile(smem + kSmem.site + ring.stage * kSiteBytes, {0, 0, 0, 0, 0, 0, 0});
    mbarrier_arrive_count(smem + kSmem.full + ring.stage * 8, 1 + kScaleArrivals);
  }
}

// Column scales of kScaleBatch k-blocks are read at once, one by each lane, a batch ahead of their
// use. Copied into each stage by cp.async they held it up (H200, 6336x8448x7168: 524 us, 515 so).
constexpr u32 kScaleBatch = kScaleSpan == 1 ? 32 : kScaleSpan == 2 ? 16 : 8;

// Lane column * kScaleBatch + i gets the scale of k-block `first` + i.
KILN_DEVICE float read_column_scale(const float* sfb, u32 first, bool exists) {
  const u32 k_block = first + threadIdx.x % kScaleBatch;
  return exists && k_block < kKBlocks ? sfb[k_block] : 0.f;
}

// One warp.
KILN_DEVICE void produce_column_scales(const GemmParams& p, const Work& w, u32 smem) {
  const u32 lane = threadIdx.x % 32, column = lane / kScaleBatch;
  Ring<kStages> ring;
  for_each_tile(p, w, smem, [&](const Site& s) {
    const u32 scale_column = s.column / 128 + column;
    const u32 slice = kSlicedB ? slice_of(p, s.group) : 0;
    const bool exists =
        column < kScaleSpan && scale_column < kScaleColumns && (!kSlicedB || slice != p.num_slices);
    const float* sfb = p.sfb_blocks;
    if (exists) sfb += slice * p.sfb_group_stride + scale_column * p.ld_sfb;
    float scales = 0.f, next = read_column_scale(sfb, w.k_begin, exists);
#pragma unroll 1
    for (u32 k_block = 0; k_block < kPartBlocks; k_block += kStageBlocks, ring.advance()) {
      if (k_block % kScaleBatch == 0) {
        scales = next;
        next = read_column_scale(sfb, w.k_begin + k_block + kScaleBatch, exists);
      }
      const u32 block = lane % kStageBlocks, of_column = lane / kStageBlocks;
      const float scale =
          __shfl_sync(0xffffffffu, scales, of_column * kScaleBatch + k_block % kScaleBatch + block);
      wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);
      __syncwarp();  // a lane that looked later could find the phase after next
      if (lane < kStageBlocks * kScaleSpan) {
        st_shared_f32(smem + kSmem.sfb + ring.stage * kSmem.sfb_stage_bytes +
                          block * kSfbSlotBytes + of_column * 4,
                      scale);
        mbarrier_arrive(smem + kSmem.full + ring.stage * 8);
      }
    }
  });
}

struct RowScales {
  const float* source;  // of this lane's first row, k-block 0
  i64 stride;
  u32 rows;  // that have scales
  bool aligned;
};

// Requests the scales of a group of k-blocks for this lane's rows, zeros beyond M and K.
KILN_DEVICE void request_row_scales(const RowScales& s, u32 to, u32 k_block) {
  const u32 lane = threadIdx.x % 64;
  const float* source = s.source + k_block;
#pragma unroll 1
  for (u32 row = lane; row < kBlockM; row += 64, source += 64 * s.stride) {
    const bool inside = row < s.rows;
    if (s.aligned && k_block + kSfaGroup <= kKBlocks) {
      cp_async_16(to + row * kSfaGroup * 4, source, inside);
    } else {
#pragma unroll
      for (u32 i = 0; i < kSfaGroup; ++i)
        cp_async_4(to + (row * kSfaGroup + i) * 4, source + i, inside && k_block + i < kKBlocks);
    }
  }
}

// Hands on a group of row scales that has landed at `from`, stage by stage. A low tile's lanes have
// a row each: its scales are read at once, and the loop is unrolled. (H200, 2112x7168 at M = 1 and
// 128: 14.1 and 13.7 us before that, 7.9 and 9.5 so. Tiles of several rows to a lane lose 2 %.)
KILN_DEVICE void hand_on_row_scales(u32 smem, u32 from, u32 k_block, Ring<kStages>& ring) {
  constexpr bool kRowEach = kBlockM <= 64;
  const u32 lane = threadIdx.x % 64;
  float4 own{};
  if (kRowEach && lane < kBlockM) own = ld_shared_v4_f32(from + lane * kSfaGroup * 4);
#pragma unroll(kRowEach ? kSfaGroup : 1)
  for (u32 i = 0; i < kSfaGroup; ++i) {
    if (k_block + i >= kPartBlocks) break;
    const u32 block = (kStageBlocks <= kSfaGroup ? i : k_block + i) % kStageBlocks;  // of the stage
    const u32 to = smem + kSmem.sfa + ring.stage * kSmem.sfa_stage_bytes + block * kBlockM * 4;
    if (block == 0) wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);
    if constexpr (kRowEach) {
      const float scale = i == 0 ? own.x : i == 1 ? own.y : i == 2 ? own.z : own.w;
      if (lane < kBlockM) st_shared_f32(to + lane * 4, scale);
    } else {
#pragma unroll 2
      for (u32 row = lane; row < kBlockM; row += 64)
        st_shared_f32(to + row * 4, ld_shared_f32(from + (row * kSfaGroup + i) * 4));
    }
    if (block + 1 < kStageBlocks) continue;
    __syncwarp();
    if (lane % 32 == 0) mbarrier_arrive(smem + kSmem.full + ring.stage * 8);
    ring.advance();
  }
}

// Two warps bring row-major row scales into the stages. They read a group of 4 k-blocks at a time,
// kSfaGroups - 1 groups ahead, and then hand it on stage by stage: every lane only what it
// copied itself, so that its own wait is all the ordering there is. Read k-block by k-block, each
// 32-byte sector of SFA was fetched up to 8 times, which cost 7 to 15 % at M = 4096 on an H200;
// read by the consumers in groups, their longer chain from WGMMA to WGMMA cost 3 to 6 %.
KILN_DEVICE void produce_row_scales(const GemmParams& p, const Work& w, u32 smem) {
  constexpr u32 kSfaGroups = sfa_groups(kBlockM);
  const u32 lane = threadIdx.x % 64;
  RowScales scales;
  scales.stride = p.ld_sfa;
  scales.aligned = p.ld_sfa % 4 == 0 && reinterpret_cast<u64>(p.sfa_rows) % 16 == 0 &&
                   (!kSlicedA || p.sfa_group_stride % 4 == 0) &&
                   (kClusterK == 1 || kPartBlocks % kSfaGroup == 0);
  Ring<kStages> ring;
  for_each_tile(p, w, smem, [&](const Site& s) {
    scales.source = p.sfa_rows + static_cast<i64>(s.row + lane) * p.ld_sfa;
    if constexpr (kSlicedA) scales.source += s.group * p.sfa_group_stride;
    scales.rows = valid_rows(s.row, s.row_end);
    // Each request is a group of copies of its own, an empty one too: they are counted.
    const auto request = [&](u32 k_block) {
      const u32 slot = k_block / kSfaGroup % kSfaGroups;
      if (k_block < kPartBlocks)
        request_row_scales(scales, smem + kSmem.sfa_rows + slot * kSmem.sfa_group_bytes,
                           w.k_begin + k_block);
      cp_async_commit_group();
    };
#pragma unroll 1
    for (u32 group = 0; group + 1 < kSfaGroups; ++group) request(group * kSfaGroup);
#pragma unroll 1
    for (u32 k_block = 0; k_block < kPartBlocks; k_block += kSfaGroup) {
      cp_async_wait_group<kSfaGroups - 2>();  // this group has landed: ask for a later one
      request(k_block + (kSfaGroups - 1) * kSfaGroup);
      const u32 slot = k_block / kSfaGroup % kSfaGroups;
      const u32 from = smem + kSmem.sfa_rows + slot * kSmem.sfa_group_bytes;
      hand_on_row_scales(smem, from, k_block, ring);
    }
  });
}

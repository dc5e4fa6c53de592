// The shared memory of a GEMM kernel: offsets for the kernel, bytes for the launch, legality for
// the tuner. One definition, compiled as device code by NVRTC and as host C++ by jit/tile.cc.
#pragma once

#include "base.cuh"

KILN_BEGIN_SHARED

constexpr u32 kMaxSmemBytes = 232448;  // dynamic shared memory of one CTA on sm_90: 227 KiB
constexpr u32 kBlockK = 128;           // bytes and elements of K per stage, and per scale
constexpr u32 kSfbSlotBytes = 16;      // 1d2d: up to 3 column scales of a stage, padded
constexpr u32 kSiteBytes = 32;         // of a stage: which tile its data belongs to
constexpr u32 kGroupBytes = 16;        // of the group table: first tiles and rows
constexpr u32 kSfaGroup = 4;  // k-blocks of row-major row scales that are copied at once: 16 bytes
constexpr u32 kStoreRows = 16;  // rows that one warp stages and stores at a time
constexpr u32 kWaveRows = 64;   // rows of one WGMMA
constexpr u32 kTermBytes = 16;  // of a scale that is split for the tensor cores

struct GemmShape {
  u32 block_m, block_n;
  u32 warpgroups_m, warpgroups_n, warpgroups_k;
  u32 stages, stage_blocks;  // of the ring, each so many k-blocks
  u32 cluster_n, cluster_k;
  u32 out_bytes;  // of one element of D
  bool sfa_row_major;
  bool column_scales;  // 1d1d: a scale of B for each column
  bool splits_scales;  // 1d1d: for the tensor cores, where there is room (gemm_scale_terms.cuh)
  u32 group_capacity;  // groups in the table; 0: no table
};

// Groups of row-major row scales on their way: low tiles take far less than the memory's latency
// for one.
KILN_SHARED_CODE u32 sfa_groups(u32 block_m) {
  return block_m < kWaveRows ? 8 : block_m == kWaveRows ? 4 : 2;
}

// Rows of one TMA box of A. Where the rows of a tile may be partly valid, boxes are as tall as a
// wave (or half a wave), and only those with valid rows are loaded.
KILN_SHARED_CODE u32 a_box_rows(u32 block_m, u32 cluster_n, bool row_groups) {
  const u32 rows = block_m / cluster_n;
  if (!row_groups || rows <= kWaveRows) return rows;
  return rows % kWaveRows == 0 ? kWaveRows : kWaveRows / 2;
}

// Rows that one warp stages and stores at a time, and warps of a warpgroup that have rows to store:
// where a tile is lower than the 64 rows of a WGMMA, the others compute what nobody wants.
KILN_SHARED_CODE u32 d_box_rows(u32 block_m) { return block_m < kStoreRows ? block_m : kStoreRows; }
KILN_SHARED_CODE u32 store_warps(u32 block_m) {
  return block_m < kWaveRows ? (block_m + kStoreRows - 1) / kStoreRows : 4;
}

// Registers of a consumer thread after redistribution; the sum over warpgroups fits what the launch
// allots.
KILN_SHARED_CODE u32 consumer_registers(u32 warpgroups) {
  return warpgroups == 4 ? 112 : warpgroups == 3 ? 160 : 232;
}

// Where the sums of all of a warpgroup's columns would take more registers than there are, it takes
// its columns in passes, one WGMMA after the other, with its 64 rows of A in registers for all.
KILN_SHARED_CODE u32 passes(u32 columns, bool column_scales) {
  if (column_scales) return columns <= 168 ? 1 : columns <= 192 ? 2 : 4;
  return columns <= 192 ? 1 : 2;
}

// Byte offsets from the 1024-byte aligned base. a, b and sfa hold `stages` pieces, d holds
// `d_slots` chunks of kStoreRows rows for each consumer warp, sfa_rows groups of row-major row
// scales on their way into the stages (block_m x kSfaGroup floats each). Barriers are u64:
// full[stages], empty[stages], scales[stages], c_full[storing warps * d_slots], and of each storing
// warp in a cluster of parts of K gather_full and gather_empty. partials holds the totals of the
// other parts of a CTA, gathered those of the other CTAs. site[stages] says which tile a stage
// belongs to (gemm_shape.cuh), the group table is that of gemm_groups.cuh.
struct SmemLayout {
  bool scale_terms;  // split scales have their room
  u32 a, b, d, sfa, sfa_rows, sfb, sfa_terms, sfb_terms, partials, gathered, site, groups;
  u32 full, empty, scales, c_full;
  u32 gather_full, gather_empty, total;
  u32 a_stage_bytes, b_stage_bytes, sfa_stage_bytes, sfa_group_bytes, sfb_stage_bytes;
  u32 partial_bytes;   // of the totals of one part of K
  u32 gathered_bytes;  // of one warp's totals
  u32 d_chunk_bytes, d_chunks, d_slots;
};

KILN_SHARED_CODE u32 align_up(u32 value, u32 alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// D leaves through chunks as wide as a swizzle span, the widest that divides a warpgroup's row (of
// one pass).
KILN_SHARED_CODE u32 d_chunk_bytes(u32 row_bytes) {
  return row_bytes % 128 == 0 ? 128 : row_bytes % 64 == 0 ? 64 : row_bytes % 32 == 0 ? 32 : 16;
}

// Offset of a 16-byte unit of a staged row of D, under the swizzle of its chunk.
KILN_SHARED_CODE u32 staged_offset(u32 row, u32 unit, u32 chunk_bytes) {
  const u32 flat = row * chunk_bytes + unit * 16;
  return flat ^ (((flat >> 7) & (chunk_bytes / 16 - 1)) << 4);
}

// Staging FP32, lanes take the fragments (8 columns) of a chunk in turn, 4 lanes a row and 8 bytes
// each. In the same turn rows 0 and 1, 2 and 3, ... would meet in the same banks, in chunks of 64
// bytes rows 0 and 2, ...: every other row takes its fragments in another order, which is the
// turn's number with one bit flipped.
KILN_SHARED_CODE u32 flipped_bit(u32 chunk_bytes) { return chunk_bytes / 64; }
KILN_SHARED_CODE u32 fragment_in_turn(u32 turn, u32 row, u32 chunk_bytes) {
  const u32 bit = flipped_bit(chunk_bytes), fragments = chunk_bytes / 32;
  return bit != 0 && (row & 4 / fragments) != 0 ? turn ^ bit : turn;
}

KILN_SHARED_CODE SmemLayout smem_layout_with(const GemmShape& s, bool scale_terms) {
  SmemLayout l{};
  l.scale_terms = scale_terms;
  const u32 warps = s.warpgroups_m * s.warpgroups_n * store_warps(s.block_m);
  const u32 columns = s.block_n / s.warpgroups_n, count = passes(columns, s.column_scales);
  const u32 row_bytes = columns / count * s.out_bytes;  // of a pass
  l.a_stage_bytes = s.stage_blocks * s.block_m * kBlockK;
  l.b_stage_bytes = s.stage_blocks * s.block_n * kBlockK;
  l.sfa_stage_bytes = align_up(s.stage_blocks * s.block_m * 4, 128);
  l.sfa_group_bytes = s.sfa_row_major ? s.block_m * 4 * kSfaGroup : 0;
  l.sfb_stage_bytes =
      s.column_scales ? align_up(s.block_n * 4, 128) : s.stage_blocks * kSfbSlotBytes;
  l.d_chunk_bytes = d_chunk_bytes(row_bytes);
  l.d_chunks = align_up(s.block_m / s.warpgroups_m, kWaveRows) / kWaveRows * count *
               (row_bytes / l.d_chunk_bytes);
  l.gathered_bytes = 32 * (s.block_n / s.warpgroups_n / 2) * 4;
  l.partial_bytes = warps * l.gathered_bytes;
  // Of the warps of a tile each rank of the cluster owns as many, and gathers the others' totals.
  const u32 owned = (warps + s.cluster_k - 1) / s.cluster_k;
  const u32 gather_bytes = (s.cluster_k - 1) * owned * l.gathered_bytes;
  const u32 gather_barriers = s.cluster_k > 1 ? warps * 8 : 0;

  // Staging for D takes what the ring leaves, up to the warp's whole part of the tile.
  const u32 slot_bytes = warps * (kStoreRows * l.d_chunk_bytes + 8);
  const u32 stage_bytes = l.a_stage_bytes + l.b_stage_bytes + l.sfa_stage_bytes +
                          l.sfb_stage_bytes + kSiteBytes + 16 + (scale_terms ? 8 : 0);
  const u32 terms_bytes =
      scale_terms ? align_up(s.stages * (s.block_m + s.block_n) * kTermBytes, 1024) : 0;
  const u32 group_bytes = s.group_capacity == 0 ? 0 : (s.group_capacity + 1) * kGroupBytes;
  const u32 sfa_bytes = sfa_groups(s.block_m) * l.sfa_group_bytes;
  const u32 ring_bytes = s.stages * stage_bytes + terms_bytes + sfa_bytes +
                         align_up(group_bytes, 16) + (s.warpgroups_k - 1) * l.partial_bytes +
                         gather_bytes + 2 * gather_barriers;
  const u32 fitting = ring_bytes < kMaxSmemBytes ? (kMaxSmemBytes - ring_bytes) / slot_bytes : 0;
  l.d_slots = fitting < 1 ? 1 : fitting < l.d_chunks ? fitting : l.d_chunks;

  l.a = 0;
  l.b = l.a + s.stages * l.a_stage_bytes;
  // compute-sanitizer takes it that WGMMA reads twice the terms of a wave: not at the end, then.
  l.sfa_terms = l.b + s.stages * l.b_stage_bytes;
  l.sfb_terms = l.sfa_terms + s.stages * s.block_m * kTermBytes;
  l.d = l.sfa_terms + terms_bytes;
  l.sfa = align_up(l.d + l.d_slots * warps * kStoreRows * l.d_chunk_bytes, 128);
  l.sfb = l.sfa + s.stages * l.sfa_stage_bytes;  // TMA writes both: multiples of 128 bytes
  l.sfa_rows = l.sfb + s.stages * l.sfb_stage_bytes;
  l.partials = l.sfa_rows + sfa_bytes;
  l.gathered = l.partials + (s.warpgroups_k - 1) * l.partial_bytes;
  l.site = l.gathered + gather_bytes;
  l.groups = l.site + s.stages * kSiteBytes;
  l.full = l.groups + align_up(group_bytes, 16);
  l.empty = l.full + s.stages * 8;
  l.scales = l.empty + s.stages * 8;
  l.c_full = l.scales + (scale_terms ? s.stages * 8 : 0);
  l.gather_full = l.c_full + warps * l.d_slots * 8;
  l.gather_empty = l.gather_full + gather_barriers;
  l.total = l.gather_empty + gather_barriers;
  return l;
}

// The tensor cores multiply scales where a thread's registers allow it (for its totals, and the
// sums and the products of a wave or, beside A, of a pass) and shared memory does.
KILN_SHARED_CODE SmemLayout smem_layout(const GemmShape& s) {
  const u32 waves = s.block_m / s.warpgroups_m / kWaveRows;
  const u32 columns = s.block_n / s.warpgroups_n, count = passes(columns, s.column_scales);
  const u32 registers =
      count > 1 ? (count + 2) * (columns / count) / 2 + 40 : (waves + 2) * columns / 2 + 24;
  const bool allowed = registers <= consumer_registers(s.warpgroups_m * s.warpgroups_n);
  const SmemLayout layout = smem_layout_with(s, s.splits_scales && allowed);
  return layout.total <= kMaxSmemBytes ? layout : smem_layout_with(s, false);
}

KILN_END_SHARED

// Dense GEMM, scaling 1d2d: D[M,N] (+)= (A * SFA)[M,K] (B * SFB)[N,K]^T.
//
// Roles. Warpgroup 0 produces: its warp 0 loads A, B (and M-major SFA) by TMA; its warp 1 copies SFB, its
// warps 2 and 3 row-major SFA, by cp.async. Warpgroups 1.. consume: each owns kWgM x kWgN of the tile and
// walks it in waves of 64 rows.
//
// A stage holds kBlockM x 128 of A, kBlockN x 128 of B (both 128B-swizzled), kBlockM row scales if they
// are M-major and up to 3 column scales, for one k-block of 128.
//   full[s]:  1 arrival with the TMA byte count, 1 of each lane that copies a column scale (when its
//             copy has landed). Consumers wait for it with the ring's phase.
//   empty[s]: one arrival of each consumer warp of every CTA that the stage's data is shared with.
//             Both producers of a stage wait for it with phase ^ 1, so the first round passes.
// Row-major row scales have a ring of their own, of groups of 4 k-blocks: sfa_full (1 arrival of each of
// 64 copying lanes) and sfa_empty (1 of each consumer warp of this CTA), in the same way. Read a k-block
// at a time, every 32-byte sector of SFA would be fetched up to 8 times: that cost 7 to 15 % at M = 4096.
// A consumer arrives on empty after its last WGMMA that reads the stage has completed; every scale was
// read into registers before that. Producer and consumers visit the same tiles and k-blocks in the
// same order, so stage and phase agree without further communication, and each wait is for something
// that its peer does without waiting for the waiter: there is no cycle.
//
// Accumulation has two levels: 4 WGMMAs sum one k-block in the tensor core, then the sum is multiplied
// by its scales and added to FP32 registers. The first k-block of a tile overwrites instead of adding.
//
// D leaves warp by warp: a warp stages 16 rows x one chunk in its own slots, then its lane 0 stores
// the chunk by TMA. BF16 tiles are packed in registers and stored while the first WGMMAs of the next
// tile run; the last one is stored at the end. FP32 tiles are stored at once; when accumulating, C
// comes through the same slots by TMA, requested at the start of the tile (c_full[warp][slot]).
//
// Clusters: CTAs in a row share A, CTAs in a column share B; each loads its part of a shared tile and
// multicasts it. A cluster takes one item of the schedule, also where part of it lies beyond D: TMA
// fills with zeros and drops what is outside. Nobody exits before all of the cluster are done.
#pragma once

#include "params.cuh"
#include "pipeline.cuh"
#include "ptx.cuh"
#include "schedule.cuh"
#include "smem_layout.cuh"

constexpr u32 kConsumers = kWarpgroupsM * kWarpgroupsN;
constexpr u32 kThreads = 128 * (kConsumers + 1);
constexpr u32 kClusterSize = kClusterM * kClusterN;
constexpr u32 kWgM = kBlockM / kWarpgroupsM;
constexpr u32 kWgN = kBlockN / kWarpgroupsN;
constexpr u32 kWaves = kWgM / kWaveRows;
constexpr u32 kKBlocks = (kK + kBlockK - 1) / kBlockK;
constexpr u32 kTilesN = (kN + kBlockN * kClusterN - 1) / (kBlockN * kClusterN);  // in clusters
constexpr u32 kScaleColumns = (kN + 127) / 128;

static_assert(kBlockM % (kWaveRows * kWarpgroupsM) == 0, "a warpgroup owns whole waves of 64 rows");
static_assert(kWgN % 8 == 0 && kWgN <= 256, "one WGMMA covers a warpgroup's columns, in eights");
static_assert(kBlockM / kClusterN <= 256 && kBlockM % (8 * kClusterN) == 0, "a TMA box is at most 256 rows of whole swizzle atoms");
static_assert(kBlockN <= 256 && kBlockN % (8 * kClusterM) == 0, "a TMA box is at most 256 rows of whole swizzle atoms");
static_assert(kConsumers >= 1 && kConsumers <= 4, "register budgets exist for 1 to 4 consumer warpgroups");
static_assert(!kAccumulate || !kOutBf16, "accumulation is into FP32");

// Registers per thread after redistribution; the sum over warpgroups fits what the launch allots.
constexpr u32 kProducerRegisters = kConsumers == 4 ? 24 : kConsumers == 3 ? 32 : 40;
constexpr u32 kConsumerRegisters = kConsumers == 4 ? 112 : kConsumers == 3 ? 160 : 232;

constexpr SmemLayout kSmem = smem_layout({kBlockM, kBlockN, kWarpgroupsM, kWarpgroupsN, kStages, kOutBf16 ? 2u : 4u, kSfaRowMajor});
static_assert(kSmem.total <= kMaxSmemBytes, "the ring and the staging of D fit into shared memory");

// Columns whose scale is the same, wherever the tile begins: the greatest common divisor of the tile
// width, the warpgroup's width and 128.
constexpr u32 gcd(u32 a, u32 b) { return b == 0 ? a : gcd(b, a % b); }
constexpr u32 kScaleChunk = gcd(gcd(kBlockN, kWgN), 128);
constexpr u32 kScaleChunks = kWgN / kScaleChunk;
constexpr u32 kScaleSpan = (kBlockN + 128 - gcd(kBlockN, 128) + 127) / 128;  // SFB rows under a tile
static_assert(kScaleSpan * 4 <= kSfbSlotBytes, "a stage has room for the tile's column scales");

constexpr u32 kChunkColumns = kSmem.d_chunk_bytes / (kOutBf16 ? 2 : 4);
constexpr u32 kChunksPerWave = kWgN / kChunkColumns;
constexpr u32 kSlotBytes = kStoreRows * kSmem.d_chunk_bytes;
constexpr u32 kSlots = kSmem.d_slots;

// ---- what a CTA works on ----

struct Work {
  u32 cluster, num_clusters;  // this CTA's cluster and how many there are
  u32 cta_m, cta_n, rank;     // position and rank in the cluster
  u32 num_tiles_m;            // in clusters
};

KILN_DEVICE Work this_work(u32 m) {
  Work w;
  w.rank = kClusterSize > 1 ? cluster_ctarank() : 0;
  w.cluster = blockIdx.x / kClusterSize;
  w.num_clusters = gridDim.x / kClusterSize;
  w.cta_m = w.rank % kClusterM;
  w.cta_n = w.rank / kClusterM;
  w.num_tiles_m = (m + kBlockM * kClusterM - 1) / (kBlockM * kClusterM);
  return w;
}

struct Origin {
  u32 row, column;  // of this CTA's tile in D
};

KILN_DEVICE Origin tile_origin(const Work& w, u32 item) {
  const TileCoord t = tile_at(item, w.num_tiles_m, kTilesN, kRasterGroup);
  return {(t.m * kClusterM + w.cta_m) * kBlockM, (t.n * kClusterN + w.cta_n) * kBlockN};
}

// ---- producer ----

KILN_DEVICE void load_operands(const GemmParams& p, const Work& w, u32 smem, u32 stage, Origin o, u32 k_block) {
  constexpr u32 kBytes = kSmem.a_stage_bytes + kSmem.b_stage_bytes + (kSfaRowMajor ? 0 : kSmem.sfa_slot_bytes);
  constexpr u32 kRowsA = kBlockM / kClusterN, kRowsB = kBlockN / kClusterM;
  const u32 full = smem + kSmem.full + stage * 8;
  const u32 a = smem + kSmem.a + stage * kSmem.a_stage_bytes + w.cta_n * kRowsA * kBlockK;
  const u32 b = smem + kSmem.b + stage * kSmem.b_stage_bytes + w.cta_m * kRowsB * kBlockK;
  const u32 row = o.row + w.cta_n * kRowsA, column = o.column + w.cta_m * kRowsB, k = k_block * kBlockK;
  mbarrier_arrive_expect_tx(full, kBytes);
  if constexpr (kClusterN > 1) {  // ranks cta_m, cta_m + kClusterM, ...
    constexpr u32 kRow = ((1u << kClusterSize) - 1) / ((1u << kClusterM) - 1);
    tma_load_2d_multicast(a, p.a, k, row, full, static_cast<u16>(kRow << w.cta_m));
  } else {
    tma_load_2d(a, p.a, k, row, full);
  }
  if constexpr (kClusterM > 1) {  // ranks cta_n * kClusterM + 0, 1, ...
    constexpr u32 kColumn = (1u << kClusterM) - 1;
    tma_load_2d_multicast(b, p.b, k, column, full, static_cast<u16>(kColumn << (w.cta_n * kClusterM)));
  } else {
    tma_load_2d(b, p.b, k, column, full);
  }
  if constexpr (!kSfaRowMajor)
    tma_load_2d(smem + kSmem.sfa + stage * kSmem.sfa_slot_bytes, p.sfa, o.row, k_block, full);
}

// One thread.
KILN_DEVICE void produce_operands(const GemmParams& p, const Work& w, u32 smem) {
  Ring<kStages> ring;
  for (u32 item = w.cluster; item < p.num_tiles; item += w.num_clusters) {
    const Origin o = tile_origin(w, item);
#pragma unroll 1
    for (u32 k_block = 0; k_block < kKBlocks; ++k_block, ring.advance()) {
      wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);
      load_operands(p, w, smem, ring.stage, o, k_block);
    }
  }
  griddepcontrol_launch_dependents();
}

// One warp, of which kScaleSpan lanes work: lane i copies the i-th column scale under the tile.
KILN_DEVICE void produce_column_scales(const GemmParams& p, const Work& w, u32 smem) {
  const u32 lane = threadIdx.x % 32;
  if (lane >= kScaleSpan) return;
  Ring<kStages> ring;
  for (u32 item = w.cluster; item < p.num_tiles; item += w.num_clusters) {
    const u32 scale_column = tile_origin(w, item).column / 128 + lane;
    const bool exists = scale_column < kScaleColumns;
    const float* sfb = p.sfb + (exists ? scale_column : 0) * p.ld_sfb;
#pragma unroll 1
    for (u32 k_block = 0; k_block < kKBlocks; ++k_block, ring.advance()) {
      wait(smem + kSmem.empty + ring.stage * 8, ring.phase ^ 1);
      cp_async_4(smem + kSmem.sfb + ring.stage * kSfbSlotBytes + lane * 4, sfb + k_block, exists);
      cp_async_mbarrier_arrive(smem + kSmem.full + ring.stage * 8);
    }
  }
}

// Two warps; a lane copies every 64th row of a group, zeros beyond M and K.
KILN_DEVICE void produce_row_scales(const GemmParams& p, const Work& w, u32 smem) {
  const u32 lane = threadIdx.x % 64;
  const bool aligned = p.ld_sfa % 4 == 0 && reinterpret_cast<u64>(p.sfa_rows) % 16 == 0;
  Ring<kSmem.sfa_slots> ring;
  for (u32 item = w.cluster; item < p.num_tiles; item += w.num_clusters) {
    const u32 first_row = tile_origin(w, item).row;
#pragma unroll 1
    for (u32 k_block = 0; k_block < kKBlocks; k_block += kSfaGroup, ring.advance()) {
      wait(smem + kSmem.sfa_empty + ring.stage * 8, ring.phase ^ 1);
      const float* source = p.sfa_rows + static_cast<i64>(first_row + lane) * p.ld_sfa + k_block;
#pragma unroll 1
      for (u32 row = lane; row < kBlockM; row += 64, source += 64 * p.ld_sfa) {
        const u32 to = smem + kSmem.sfa + ring.stage * kSmem.sfa_slot_bytes + row * kSfaGroup * 4;
        const bool inside = first_row + row < p.m;
        if (aligned && k_block + kSfaGroup <= kKBlocks) {
          cp_async_16(to, source, inside);
        } else {
#pragma unroll
          for (u32 i = 0; i < kSfaGroup; ++i) cp_async_4(to + i * 4, source + i, inside && k_block + i < kKBlocks);
        }
      }
      cp_async_mbarrier_arrive(smem + kSmem.sfa_full + ring.stage * 8);
    }
  }
}

// ---- consumer ----

struct Consumer {
  u32 smem;
  u32 warp;        // among all consumer warps
  u32 lane;
  u32 row, column; // of this warpgroup inside the tile
  u32 slots;       // shared address of this warp's staging slots
  u32 c_full;      // shared address of this warp's c_full barriers
};

struct Rings {  // where a consumer stands
  Ring<kStages> stages;
  Ring<kSmem.sfa_slots> sfa;  // row-major SFA only
};

// Matrix descriptor of a 128B-swizzled, K-major tile: 8 rows x 128 bytes per swizzle atom.
KILN_DEVICE u64 matrix_descriptor(u32 address) {
  constexpr u64 kSwizzle128 = 1ull << 62, kStride = static_cast<u64>(8 * kBlockK >> 4) << 32;
  return kSwizzle128 | kStride | ((address & 0x3FFFF) >> 4);
}

KILN_DEVICE void keep(float (&registers)[kWgN / 2]) {  // pins the accumulators against code motion
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

// Starts one wave of one k-block: 64 x kWgN x 128.
KILN_DEVICE void start_mma(float (&sum)[kWgN / 2], u64 a, u64 b) {
  keep(sum);
  wgmma_fence();
  wgmma<0>(sum, a, b);
#pragma unroll
  for (u32 k = 1; k < kBlockK / 32; ++k) wgmma<1>(sum, a + k * 2, b + k * 2);
  wgmma_commit_group();
}

template <bool kFirst>
KILN_DEVICE void promote(float (&total)[kWgN / 2], const float (&sum)[kWgN / 2], float2 row_scales,
                         const float (&column_scales)[kScaleChunks]) {
#pragma unroll
  for (u32 i = 0; i < kWgN / 8; ++i) {
    const float upper = row_scales.x * column_scales[i * 8 / kScaleChunk];
    const float lower = row_scales.y * column_scales[i * 8 / kScaleChunk];
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      const float scale = j < 2 ? upper : lower;
      total[i * 4 + j] = kFirst ? scale * sum[i * 4 + j] : total[i * 4 + j] + scale * sum[i * 4 + j];
    }
  }
}

// ---- D ----

// Address of a 16-byte unit of a staged row under the chunk's swizzle.
KILN_DEVICE u32 staged(u32 slot, u32 row, u32 unit) {
  constexpr u32 kBytes = kSmem.d_chunk_bytes;
  const u32 flat = row * kBytes + unit * 16;
  return slot + (flat ^ (((flat >> 7) & (kBytes / 16 - 1)) << 4));
}

KILN_DEVICE void wait_slot_free() {  // this lane's stores have left at least one of the kSlots slots
  cp_async_bulk_wait_group_read<kSlots - 1>();
}

KILN_DEVICE void store_chunk(const GemmParams& p, const Consumer& c, u32 slot, u32 row, u32 column) {
  fence_proxy_async();
  __syncwarp();
  if (c.lane == 0) {
    tma_store_2d(p.d, column, row, slot);
    cp_async_bulk_commit_group();
  }
}

// Stores one wave of a packed BF16 tile. `row`, `column`: this warp's first element in D.
KILN_DEVICE void store_packed(const GemmParams& p, const Consumer& c, u32& slot_index, const u32 (&packed)[kWgN / 4],
                              u32 row, u32 column) {
  const u32 lane_row = c.lane % 16, lane_unit = c.lane / 16;
#pragma unroll
  for (u32 chunk = 0; chunk < kChunksPerWave; ++chunk) {
    const u32 slot = c.slots + slot_index * kSlotBytes;
    slot_index = slot_index + 1 == kSlots ? 0 : slot_index + 1;
    if (c.lane == 0) wait_slot_free();
    __syncwarp();
    constexpr u32 kUnits = kChunkColumns / 8;
#pragma unroll
    for (u32 unit = 0; unit + 1 < kUnits; unit += 2) {
      const u32* r = packed + (chunk * kUnits + unit) * 2;
      stmatrix_x4(staged(slot, lane_row, unit + lane_unit), r[0], r[1], r[2], r[3]);
    }
    if constexpr (kUnits % 2 == 1) {
      const u32* r = packed + (chunk * kUnits + kUnits - 1) * 2;
      stmatrix_x2(staged(slot, lane_row, kUnits - 1), r[0], r[1]);
    }
    store_chunk(p, c, slot, row, column + chunk * kChunkColumns);
  }
}

KILN_DEVICE void pack(u32 (&packed)[kWgN / 4], const float (&total)[kWgN / 2]) {
#pragma unroll
  for (u32 i = 0; i < kWgN / 4; ++i) packed[i] = cvt_bf16x2(total[2 * i], total[2 * i + 1]);
}

// Requests chunk `index` (over all waves) of C into its slot.
KILN_DEVICE void load_c(const GemmParams& p, const Consumer& c, u32 index, u32 row, u32 column) {
  const u32 slot = index % kSlots, wave = index / kChunksPerWave, chunk = index % kChunksPerWave;
  mbarrier_arrive_expect_tx(c.c_full + slot * 8, kSlotBytes);
  tma_load_2d(c.slots + slot * kSlotBytes, p.d, column + chunk * kChunkColumns, row + wave * kWaveRows,
              c.c_full + slot * 8);
}

// Asks for as much of C as the slots hold. One lane.
KILN_DEVICE void request_c(const GemmParams& p, const Consumer& c, u32 row, u32 column) {
  cp_async_bulk_wait_group_read<0>();
#pragma unroll
  for (u32 i = 0; i < kSlots; ++i) load_c(p, c, i, row, column);
}

// Stores a whole FP32 tile, adding C when accumulating.
KILN_DEVICE void store_f32(const GemmParams& p, const Consumer& c, u32& c_phases, const float (&total)[kWaves][kWgN / 2],
                           u32 row, u32 column) {
  constexpr u32 kGroups = kChunkColumns / 8 > 0 ? kChunkColumns / 8 : 1;  // 8-column groups of a chunk
  static_assert(kChunkColumns % 8 == 0, "an FP32 chunk holds whole fragments of 8 columns");
#pragma unroll
  for (u32 index = 0; index < kWaves * kChunksPerWave; ++index) {
    const u32 wave = index / kChunksPerWave, chunk = index % kChunksPerWave, slot_index = index % kSlots;
    const u32 slot = c.slots + slot_index * kSlotBytes;
    if constexpr (kAccumulate) {
      wait(c.c_full + slot_index * 8, (c_phases >> slot_index) & 1);
      c_phases ^= 1u << slot_index;
    } else {
      if (c.lane == 0) wait_slot_free();
      __syncwarp();
    }
#pragma unroll
    for (u32 group = 0; group < kGroups; ++group) {
#pragma unroll
      for (u32 half = 0; half < 2; ++half) {
        const float* value = total[wave] + (chunk * kGroups + group) * 4 + half * 2;
        const u32 address = staged(slot, c.lane / 4 + half * 8, group * 2 + c.lane % 4 / 2) + c.lane % 2 * 8;
        float2 old{0.f, 0.f};
        if constexpr (kAccumulate) old = ld_shared_v2_f32(address);
        st_shared_v2_f32(address, old.x + value[0], old.y + value[1]);
      }
    }
    store_chunk(p, c, slot, row + wave * kWaveRows, column + chunk * kChunkColumns);
    if constexpr (kAccumulate) {
      if (index + kSlots < kWaves * kChunksPerWave && c.lane == 0) {
        cp_async_bulk_wait_group_read<0>();
        load_c(p, c, index + kSlots, row, column);
      }
    }
  }
}

// ---- the consumer's main loop ----

struct Pending {  // a finished BF16 tile that is stored under the next tile's first WGMMAs
  u32 packed[kWaves][kWgN / 4];
  u32 row, column;
  bool any;
};

// Shared address of this thread's first row scale of a k-block.
KILN_DEVICE u32 row_scales_at(const Consumer& c, const Rings& rings, u32 k_block) {
  const u32 row = c.row + c.warp % 4 * kStoreRows + c.lane / 4;
  if constexpr (!kSfaRowMajor) return c.smem + kSmem.sfa + rings.stages.stage * kSmem.sfa_slot_bytes + row * 4;
  return c.smem + kSmem.sfa + rings.sfa.stage * kSmem.sfa_slot_bytes + (row * kSfaGroup + k_block % kSfaGroup) * 4;
}

KILN_DEVICE void await_row_scales(const Consumer& c, const Rings& rings) {
  if constexpr (kSfaRowMajor) wait(c.smem + kSmem.sfa_full + rings.sfa.stage * 8, rings.sfa.phase);
}

// After the last k-block of a group: gives its slot back and waits for the tile's next group. This
// stands behind the promotion, off the chain from one WGMMA to the next.
KILN_DEVICE void release_row_scales(const Consumer& c, Rings& rings, u32 k_block) {
  if (!kSfaRowMajor || (k_block % kSfaGroup != kSfaGroup - 1 && k_block != kKBlocks - 1)) return;
  if (c.lane == 0) mbarrier_arrive(c.smem + kSmem.sfa_empty + rings.sfa.stage * 8);
  rings.sfa.advance();
  if (k_block != kKBlocks - 1) await_row_scales(c, rings);
}

// The stage is read: lets the producers of every CTA that shares it refill it.
KILN_DEVICE void release_stage(const Work& w, const Consumer& c, Rings& rings) {
  const u32 empty = c.smem + kSmem.empty + rings.stages.stage * 8;
  if constexpr (kClusterSize == 1) {
    if (c.lane == 0) mbarrier_arrive(empty);
  } else if (c.lane < kClusterSize) {
    const bool shares = c.lane % kClusterM == w.cta_m || c.lane / kClusterM == w.cta_n;
    if (shares) mbarrier_arrive_cluster(empty, c.lane);
  }
  rings.stages.advance();
}

// All waves of one k-block: start the WGMMAs, under the first of a tile store the previous tile,
// then promote.
template <bool kFirst>
KILN_DEVICE void multiply(const GemmParams& p, const Work& w, const Consumer& c, Rings& rings, u32 k_block,
                          float (&total)[kWaves][kWgN / 2], float (&sum)[kWgN / 2], Pending& pending, u32& slot_index,
                          u32 tile_column) {
  constexpr u32 kRowPitch = kSfaRowMajor ? kSfaGroup * 4 : 4;  // bytes between the scales of two rows
  const u32 stage = rings.stages.stage;
  wait(c.smem + kSmem.full + stage * 8, rings.stages.phase);
  float column_scales[kScaleChunks];
  const u32 sfb = c.smem + kSmem.sfb + stage * kSfbSlotBytes;
#pragma unroll
  for (u32 i = 0; i < kScaleChunks; ++i)
    column_scales[i] = ld_shared_f32(sfb + (tile_column % 128 + c.column + i * kScaleChunk) / 128 * 4);

  const u32 sfa = row_scales_at(c, rings, k_block);
  const u64 a = matrix_descriptor(c.smem + kSmem.a + stage * kSmem.a_stage_bytes + c.row * kBlockK);
  const u64 b = matrix_descriptor(c.smem + kSmem.b + stage * kSmem.b_stage_bytes + c.column * kBlockK);
#pragma unroll
  for (u32 wave = 0; wave < kWaves; ++wave) {
    const u32 scales = sfa + wave * kWaveRows * kRowPitch;
    const float2 row_scales{ld_shared_f32(scales), ld_shared_f32(scales + 8 * kRowPitch)};
    start_mma(sum, a + wave * (kWaveRows * kBlockK >> 4), b);
    if constexpr (kFirst && kOutBf16) {
      if (pending.any) store_packed(p, c, slot_index, pending.packed[wave], pending.row + wave * kWaveRows, pending.column);
    }
    wgmma_wait_group<0>();
    keep(sum);
    if (wave == kWaves - 1) release_stage(w, c, rings);
    promote<kFirst>(total[wave], sum, row_scales, column_scales);
  }
  release_row_scales(c, rings, k_block);
}

KILN_DEVICE void consume(const GemmParams& p, const Work& w, u32 smem) {
  Consumer c;
  const u32 consumer = __shfl_sync(0xffffffffu, threadIdx.x / 128 - 1, 0);
  c.smem = smem;
  c.warp = threadIdx.x / 32 - 4;
  c.lane = threadIdx.x % 32;
  c.row = consumer % kWarpgroupsM * kWgM;
  c.column = consumer / kWarpgroupsM * kWgN;
  c.slots = smem + kSmem.d + c.warp * kSlots * kSlotBytes;
  c.c_full = smem + kSmem.c_full + c.warp * kSlots * 8;

  float total[kWaves][kWgN / 2], sum[kWgN / 2];
  Pending pending;
  pending.any = false;
  u32 slot_index = 0, c_phases = 0;
  Rings rings;
  for (u32 item = w.cluster; item < p.num_tiles; item += w.num_clusters) {
    const Origin o = tile_origin(w, item);
    const u32 row = o.row + c.row + c.warp % 4 * kStoreRows, column = o.column + c.column;
    if constexpr (kAccumulate) {
      if (c.lane == 0) request_c(p, c, row, column);
    }
    await_row_scales(c, rings);
    multiply<true>(p, w, c, rings, 0, total, sum, pending, slot_index, o.column);
#pragma unroll 1
    for (u32 k = 1; k < kKBlocks; ++k)
      multiply<false>(p, w, c, rings, k, total, sum, pending, slot_index, o.column);
    if constexpr (kOutBf16) {
#pragma unroll
      for (u32 wave = 0; wave < kWaves; ++wave) pack(pending.packed[wave], total[wave]);
      pending.row = row;
      pending.column = column;
      pending.any = true;
    } else {
      store_f32(p, c, c_phases, total, row, column);
    }
  }
  if constexpr (kOutBf16) {
    if (pending.any) {
#pragma unroll
      for (u32 wave = 0; wave < kWaves; ++wave)
        store_packed(p, c, slot_index, pending.packed[wave], pending.row + wave * kWaveRows, pending.column);
    }
  }
  if (c.lane == 0) cp_async_bulk_wait_group_read<0>();  // shared memory outlives the stores that read it
}

// ---- the kernel ----

KILN_DEVICE void init_barriers(u32 smem) {
  constexpr u32 kSharers = kClusterM + kClusterN - 1;  // CTAs that read a stage's data, itself included
  for (u32 s = 0; s < kStages; ++s) {
    mbarrier_init(smem + kSmem.full + s * 8, 1 + kScaleSpan);
    mbarrier_init(smem + kSmem.empty + s * 8, kConsumers * 4 * kSharers);
  }
  for (u32 i = 0; kSfaRowMajor && i < kSmem.sfa_slots; ++i) {
    mbarrier_init(smem + kSmem.sfa_full + i * 8, 64);
    mbarrier_init(smem + kSmem.sfa_empty + i * 8, kConsumers * 4);
  }
  for (u32 i = 0; kAccumulate && i < kConsumers * 4 * kSlots; ++i) mbarrier_init(smem + kSmem.c_full + i * 8, 1);
  fence_mbarrier_init();
}

KILN_DEVICE void gemm_dense(const GemmParams& p) {
  extern __shared__ __align__(1024) u8 shared[];
  const u32 smem = smem_address(shared);
  const u32 warp = threadIdx.x / 32;
  const Work w = this_work(p.m);
  if (threadIdx.x == 0) {
    prefetch_tensormap(p.a);
    prefetch_tensormap(p.b);
    prefetch_tensormap(p.d);
    init_barriers(smem);
  }
  if constexpr (kClusterSize > 1) {
    barrier_cluster_arrive_relaxed();
    barrier_cluster_wait();
  } else {
    __syncthreads();
  }
  griddepcontrol_wait();

  if (warp < 4) {
    setmaxnreg_dec<kProducerRegisters>();
    if (warp == 0 && threadIdx.x == 0) produce_operands(p, w, smem);
    if (warp == 1) produce_column_scales(p, w, smem);
    if (kSfaRowMajor && warp >= 2) produce_row_scales(p, w, smem);
    __syncwarp();
  } else {
    setmaxnreg_inc<kConsumerRegisters>();
    consume(p, w, smem);
    __syncwarp();
  }
  if constexpr (kClusterSize > 1) {
    barrier_cluster_arrive();
    barrier_cluster_wait();
  }
}

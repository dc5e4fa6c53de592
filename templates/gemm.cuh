// GEMM of FP8 operands with block scales, for every layout and both scalings:
// D[M,N] (+)= (A * SFA)[M,K] (B * SFB)[N,K]^T, once or for each group.
//
// Roles. Warpgroup 0 produces: its warp 0 loads A, B (and scales that lie M-major) by TMA; under
// 1d2d its warp 1 brings SFB, and its warps 2 and 3 row-major SFA. Warpgroups 1.. consume: each
// owns kWaves x 64 rows and kWgN columns of the tile, warpgroups taking waves of 64 rows in turn.
//
// A stage holds kBlockM x 128 of A, kBlockN x 128 of B (both 128B-swizzled), kBlockM row scales and
// up to 3 (1d2d) or kBlockN (1d1d) column scales, for one k-block of 128; and, when the k-block is
// a tile's first, which tile that is. Consumers know nothing of the schedule: they follow what the
// stages say, up to a stage that says that there are no more tiles.
//   full[s]:  1 arrival with the TMA byte count, 1 of each lane that writes a column scale, 2 of
//   the
//             warps that bring row-major row scales. Consumers wait for it with the ring's phase.
//   empty[s]: one arrival of each consumer warp of every CTA that the stage's data is shared with.
//             All producers of a stage wait for it with phase ^ 1, so the first round passes.
// A consumer arrives on empty after its last WGMMA that reads the stage has completed; every scale
// was read into registers before that. Producers and consumers visit the same tiles and k-blocks in
// the same order, so stage and phase agree without further communication, and each wait is for
// something that its peer does without waiting for the waiter: there is no cycle. The stage that
// ends the work gets all its arrivals from the TMA thread.
//
// Accumulation has two levels: 4 WGMMAs sum one k-block in the tensor core, then the sum is
// multiplied by its scales and added to FP32 registers. The first k-block of a tile overwrites
// instead of adding.
//
// D leaves warp by warp: a warp stages 16 rows x one chunk in its own slots, then its lane 0 stores
// the chunk by TMA. A finished tile stays in its registers until the first WGMMAs of the next tile
// run, and is stored under them: the first promotion overwrites it. The last tile is stored at the
// end. When accumulating, either TMA adds a chunk to D in L2, or C comes through the same slots by
// TMA, requested as soon as the previous tile has left them (c_full[warp][slot]).
//
// Row groups. A tile has rows of one group only; the last tile of a group may be partly valid.
// Boxes of A and waves without valid rows are skipped, and 16 rows that are not all valid are
// copied row by row instead of by TMA. A warpgroup without any valid row only keeps step with the
// ring.
//
// Clusters: CTAs in a row share A, CTAs in a column share B; each loads its part of a shared tile
// and multicasts it. A cluster takes one item of the schedule, also where part of it lies beyond D
// or the group: TMA fills with zeros and drops what is outside. Nobody exits before all of the
// cluster are done.
#pragma once

#include "gemm_groups.cuh"
#include "gemm_produce.cuh"
#include "gemm_shape.cuh"
#include "gemm_store.cuh"
#include "pipeline.cuh"

// ---- one k-block in the tensor cores, and its promotion ----

// Matrix descriptor of a 128B-swizzled, K-major tile: 8 rows x 128 bytes per swizzle atom.
KILN_DEVICE u64 matrix_descriptor(u32 address) {
  constexpr u64 kSwizzle128 = 1ull << 62, kStride = static_cast<u64>(8 * kBlockK >> 4) << 32;
  return kSwizzle128 | kStride | ((address & 0x3FFFF) >> 4);
}

KILN_DEVICE void keep(float (&registers)[kWgN / 2]) {  // pins the accumulators against code motion
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i) keep_register(registers[i]);
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

// ---- scales of one k-block, as a thread needs them ----

// 1d2d: the scale of a chunk of columns. 1d1d: of each column that this thread has in a fragment.
constexpr u32 kColumnValues = kColumnScales ? kWgN / 4 : kScaleChunks;

KILN_DEVICE void load_column_scales(float (&scales)[kColumnValues], const Consumer& c, u32 stage,
                                    u32 tile_column) {
  const u32 sfb = c.smem + kSmem.sfb + stage * kSmem.sfb_stage_bytes;
  if constexpr (kColumnScales) {
    const u32 from = sfb + (c.column + c.lane % 4 * 2) * 4;
#pragma unroll
    for (u32 i = 0; i < kWgN / 8; ++i) {
      const float2 pair = ld_shared_v2_f32(from + i * 32);
      scales[i * 2] = pair.x;
      scales[i * 2 + 1] = pair.y;
    }
  } else {
#pragma unroll
    for (u32 i = 0; i < kScaleChunks; ++i)
      scales[i] = ld_shared_f32(sfb + (tile_column % 128 + c.column + i * kScaleChunk) / 128 * 4);
  }
}

// The factor of accumulator register i.
KILN_DEVICE float scale_of(u32 i, float2 row_scales, const float (&columns)[kColumnValues]) {
  const float row = i % 4 < 2 ? row_scales.x : row_scales.y;
  return row * (kColumnScales ? columns[i / 4 * 2 + i % 2] : columns[i / 4 * 8 / kScaleChunk]);
}

template <bool kFirst>
KILN_DEVICE void promote(float (&total)[kWgN / 2], const float (&sum)[kWgN / 2], float2 row_scales,
                         const float (&columns)[kColumnValues]) {
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i) {
    const float scale = scale_of(i, row_scales, columns);
    total[i] = kFirst ? scale * sum[i] : total[i] + scale * sum[i];
  }
}

// Forms the products of scales now rather than after the WGMMAs that are running.
KILN_DEVICE void make_products(float (&products)[kWgN / 2], float2 row_scales,
                               const float (&columns)[kColumnValues]) {
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i) products[i] = scale_of(i, row_scales, columns);
  keep(products);
}

template <bool kFirst>
KILN_DEVICE void promote(float (&total)[kWgN / 2], const float (&sum)[kWgN / 2],
                         const float (&products)[kWgN / 2]) {
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i)
    total[i] = kFirst ? products[i] * sum[i] : total[i] + products[i] * sum[i];
}

// ---- the main loop ----

// What a warpgroup keeps from one tile to the next: the finished tile in its totals, which is
// stored under the next tile's first WGMMAs.
struct ConsumerState {
  Ring<kStages> ring;
  Slots slots;
  Place place;           // of the finished tile
  bool pending = false;  // there is one
};

// The stage is read: lets the producers of every CTA that shares it refill it.
KILN_DEVICE void release(const Consumer& c, u32 stage) {
  const u32 empty = c.smem + kSmem.empty + stage * 8;
  if constexpr (kClusterSize == 1) {
    if (c.lane == 0) mbarrier_arrive(empty);
  } else {
    if (c.releases) mbarrier_arrive_cluster(empty, c.lane);
  }
}

// All waves of one k-block: start the WGMMAs, under the first of a tile store the previous tile,
// then promote. `waves` of them have valid rows, at least one. On entry the stage is full.
template <bool kFirst>
KILN_DEVICE void multiply(const GemmParams& p, const Consumer& c, ConsumerState& state,
                          float (&total)[kWaves][kWgN / 2], float (&sum)[kWgN / 2], u32 tile_column,
                          u32 waves) {
  const u32 stage = state.ring.stage;
  float columns[kColumnValues];
  if constexpr (!kColumnScales) load_column_scales(columns, c, stage, tile_column);
  const u32 sfa = c.smem + kSmem.sfa + stage * kSmem.sfa_stage_bytes +
                  (c.row + c.warp % 4 * kStoreRows + c.lane / 4) * 4;
  const u64 a = matrix_descriptor(c.smem + kSmem.a + stage * kSmem.a_stage_bytes + c.row * kBlockK);
  const u64 b =
      matrix_descriptor(c.smem + kSmem.b + stage * kSmem.b_stage_bytes + c.column * kBlockK);
#pragma unroll
  for (u32 wave = 0; wave < kWaves; ++wave) {
    // A tile's first k-block computes every wave: it overwrites the totals, which would otherwise
    // live on from tile to tile and cost registers that are not there.
    if (kRowGroups && !kFirst && wave > 0 && wave >= waves) break;
    const float2 row_scales{ld_shared_f32(sfa + wave * kWaveStride * 4),
                            ld_shared_f32(sfa + wave * kWaveStride * 4 + 32)};
    start_mma(sum, a + wave * (kWaveStride * kBlockK >> 4), b);
    // Many loads: after the WGMMAs have started. H200, 4096x4096x7168: 269 us before them, 257
    // after.
    if (kColumnScales && wave == 0) load_column_scales(columns, c, stage, tile_column);
    if constexpr (kFirst) {
      if (state.pending) store_wave(p, c, state.slots, total[wave], state.place, wave);
    }
    float products[kWgN / 2];
    if constexpr (kEarlyProducts) make_products(products, row_scales, columns);
    wgmma_wait_group<0>();
    keep(sum);
    if (kRowGroups && !kFirst ? wave + 1 == waves : wave + 1 == kWaves) release(c, stage);
    if constexpr (kEarlyProducts) {
      promote<kFirst>(total[wave], sum, products);
    } else {
      promote<kFirst>(total[wave], sum, row_scales, columns);
    }
  }
  state.ring.advance();
}

// Which of this warp's rows are the tile's, for each wave. With labels a row's own label decides.
KILN_DEVICE Place place_of(const GemmParams& p, const Consumer& c, const Tile& t) {
  Place place{t.row + c.row + c.warp % 4 * kStoreRows, t.column + c.column, t.slice, {}};
  if constexpr (kRowGroups) {
#pragma unroll
    for (u32 wave = 0; wave < kWaves; ++wave) {
      const u32 row = place.row + wave * kWaveStride + c.lane;
      bool is_valid = c.lane < kStoreRows && row >= t.row_begin && row < t.row_end;
      if (kLabels && is_valid) is_valid = static_cast<u32>(p.grouping[row]) == t.group;
      place.valid[wave / 2] |= __ballot_sync(0xffffffffu, is_valid) << wave % 2 * kStoreRows;
    }
  }
  return place;
}

// One tile. Its first stage is full.
KILN_DEVICE void compute_tile(const GemmParams& p, const Consumer& c, ConsumerState& state,
                              float (&total)[kWaves][kWgN / 2], float (&sum)[kWgN / 2],
                              const Tile& t, u32 waves) {
  const Place place = place_of(p, c, t);
  const auto first = [&] {
    multiply<true>(p, c, state, total, sum, t.column, waves);
    if constexpr (kLoadC) {
      if (c.lane == 0) request_c(p, c, place);
    }
  };
  const auto next = [&] {
    wait(c.smem + kSmem.full + state.ring.stage * 8, state.ring.phase);
    multiply<false>(p, c, state, total, sum, t.column, waves);
  };
  if constexpr (kWholeRounds) {
#pragma unroll 1
    for (u32 round = 0; round < kRounds; ++round) {
#pragma unroll
      for (u32 stage = 0; stage < kStages; ++stage) {
        state.ring.stage = stage;  // it is: this makes it a constant
        round == 0 && stage == 0 ? first() : next();
      }
    }
  } else {
    first();
    const u32 k_blocks = kColumnScales ? t.k_blocks : kKBlocks;
#pragma unroll kUnrollK
    for (u32 k_block = 1; k_block < k_blocks; ++k_block) next();
  }
  state.place = place;
  state.pending = true;
}

// A tile without valid rows for this warpgroup: its stages are only handed back, when the whole
// warp has seen them. (Elsewhere the WGMMAs hold a warp together.)
KILN_DEVICE void pass_tile(const Consumer& c, Ring<kStages>& ring) {
  for (u32 k_block = 0; k_block < kKBlocks; ++k_block, ring.advance()) {
    wait(c.smem + kSmem.full + ring.stage * 8, ring.phase);
    __syncwarp();
    release(c, ring.stage);
  }
}

KILN_DEVICE Consumer this_consumer(const Work& w, u32 smem) {
  Consumer c;
  const u32 consumer = __shfl_sync(0xffffffffu, threadIdx.x / 128 - 1, 0);
  c.smem = smem;
  c.warp = threadIdx.x / 32 - 4;
  c.lane = threadIdx.x % 32;
  c.row = consumer % kWarpgroupsM * kWaveRows;
  c.column = consumer / kWarpgroupsM * kWgN;
  c.releases =
      c.lane < kClusterSize && (c.lane % kClusterM == w.cta_m || c.lane / kClusterM == w.cta_n);
  c.slots = smem + kSmem.d + c.warp * kSlots * kSlotBytes;
  c.c_full = smem + kSmem.c_full + c.warp * kSlots * 8;
  return c;
}

KILN_DEVICE void consume(const GemmParams& p, const Work& w, u32 smem) {
  const Consumer c = this_consumer(w, smem);
  float total[kWaves][kWgN / 2], sum[kWgN / 2];
  ConsumerState state;
  while (true) {
    wait(smem + kSmem.full + state.ring.stage * 8, state.ring.phase);
    const Tile t = read_tile(smem + kSmem.site + state.ring.stage * kSiteBytes);
    if (t.k_blocks == 0) break;
    // Waves of this warpgroup that have valid rows.
    const u32 rows = kRowGroups ? valid_rows(t.row, t.row_end) : kBlockM;
    const u32 waves = rows <= c.row ? 0 : (rows - c.row + kWaveStride - 1) / kWaveStride;
    if (kRowGroups && waves == 0) {
      pass_tile(c, state.ring);
    } else {
      compute_tile(p, c, state, total, sum, t, waves);
    }
  }
  if (state.pending) {
#pragma unroll
    for (u32 wave = 0; wave < kWaves; ++wave)
      store_wave(p, c, state.slots, total[wave], state.place, wave);
  }
  if constexpr (kLayout == kGroupedContiguous) {
    if (p.zero_padding != 0) zero_padding(p, smem);
  }
  if (c.lane == 0)
    cp_async_bulk_wait_group_read<0>();  // shared memory outlives the stores that read it
}

// ---- the kernel ----

KILN_DEVICE void init_barriers(u32 smem) {
  constexpr u32 kSharers =
      kClusterM + kClusterN - 1;  // CTAs that read a stage's data, itself included
  for (u32 s = 0; s < kStages; ++s) {
    mbarrier_init(smem + kSmem.full + s * 8, 1 + kScaleArrivals);
    mbarrier_init(smem + kSmem.empty + s * 8, kConsumers * 4 * kSharers);
  }
  for (u32 i = 0; kLoadC && i < kConsumers * 4 * kSlots; ++i)
    mbarrier_init(smem + kSmem.c_full + i * 8, 1);
  fence_mbarrier_init();
}

template <class Params>
KILN_DEVICE void prefetch_maps(const Params& params) {
  const GemmParams& p = gemm_of(params);
  prefetch_tensormap(map_a(params, 0));
  prefetch_tensormap(map_b(params, 0));
  prefetch_tensormap(p.d);
  if constexpr (!kSfaRowMajor) prefetch_tensormap(p.sfa);
  if constexpr (kColumnScales) prefetch_tensormap(p.sfb);
}

template <class Params>
KILN_DEVICE void gemm(const Params& params) {
  extern __shared__ __align__(1024) u8 shared[];
  const GemmParams& p = gemm_of(params);
  const u32 smem = smem_address(shared);
  const u32 warp = threadIdx.x / 32;
  const Work w = this_work(p);
  if (threadIdx.x == 0) {
    prefetch_maps(params);
    init_barriers(smem);
  }
  if constexpr (kClusterSize > 1) {
    barrier_cluster_arrive_relaxed();
    barrier_cluster_wait();
  } else {
    __syncthreads();
  }
  griddepcontrol_wait();
  if constexpr (kRowGroups) make_group_table(p, smem);

  if (warp < 4) {
    setmaxnreg_dec<kProducerRegisters>();
    if (warp == 0 && threadIdx.x == 0) produce_operands(params, w, smem);
    if (!kColumnScales && warp == 1) produce_column_scales(p, w, smem);
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

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
template <u32 kStrideBytes = 8 * kBlockK>  // from one 8 rows to the next
KILN_DEVICE u64 matrix_descriptor(u32 address) {
  constexpr u64 kSwizzle128 = 1ull << 62, kStride = static_cast<u64>(kStrideBytes >> 4) << 32;
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

// ---- scales of one k-block, as a thread needs them ----

// 1d2d: the scale of a chunk of columns. 1d1d: of each column that this thread has in a fragment.
constexpr u32 kColumnValues = kColumnScales ? kWgN / 4 : kScaleChunks;

KILN_DEVICE void load_column_scales(float (&scales)[kColumnValues], const Consumer& c, u32 stage,
                                    u32 block, u32 tile_column) {
  const u32 sfb =
      c.smem + kSmem.sfb + stage * kSmem.sfb_stage_bytes + block * kSfbSlotBytes;
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
  Ring<kStages> tile;    // where this tile begins; the parts of K begin a stage apart
  u32 tiles = 0;         // gathered

  // This part's first stage of the next tile.
  KILN_DEVICE Ring<kStages> next_tile(u32 part) {
    tile.advance(kPartStages % kStages);
    tile.phase ^= kPartStages / kStages & 1;
    Ring<kStages> first = tile;
    first.advance(part);
    return first;
  }
};

// ---- parts of K: each warpgroup has every kWarpgroupsK-th k-block; the totals meet at the end ----

// Adds the totals of the other parts to part 0's, always in the same order.
KILN_DEVICE void add_parts(const Consumer& c, float (&total)[kWgN / 2]) {
  const bool stores = c.warp % 4 < kStoreWarps;
  const u32 column = c.warp / 4;
  const u32 slot = c.smem + kSmem.partials +
                   ((column * kStoreWarps + c.warp % 4) * (kWgN / 2) * 32 + c.lane) * 4;
  bar_sync<kPartsBarrier, kConsumers * 128>();  // part 0 has read those of the last tile
  if (c.part > 0 && stores) {
#pragma unroll
    for (u32 i = 0; i < kWgN / 2; ++i)
      st_shared_f32(slot + (c.part - 1) * kSmem.partial_bytes + i * 128, total[i]);
  }
  bar_sync<kPartsBarrier, kConsumers * 128>();
  if (c.part == 0 && stores) {
#pragma unroll
    for (u32 part = 1; part < kWarpgroupsK; ++part) {
#pragma unroll
      for (u32 i = 0; i < kWgN / 2; ++i)
        total[i] += ld_shared_f32(slot + (part - 1) * kSmem.partial_bytes + i * 128);
    }
  }
}

// Each warp's rows belong to one rank of the cluster, which gathers the totals of all parts and adds
// them in the order of K.
KILN_DEVICE void gather_parts(const Consumer& c, u32 tiles, float (&total)[kWgN / 2],
                              float (&sum)[kWgN / 2]) {
  const u32 warp = c.warp / 4 * kStoreWarps + c.warp % 4, owner = warp % kClusterK;
  const u32 phase = tiles & 1;
  const u32 full = c.smem + kSmem.gather_full + warp * 8;
  const u32 empty = c.smem + kSmem.gather_empty + warp * 8;
  const u32 from = c.smem + kSmem.gathered +
                   warp / kClusterK * (kClusterK - 1) * kSmem.gathered_bytes + c.lane * 16;
  if (c.rank != owner) {
    while (!mbarrier_try_wait_parity_cluster(empty, phase ^ 1)) {
    }
    const u32 to =
        mapa(from + (c.rank < owner ? c.rank : c.rank - 1) * kSmem.gathered_bytes, owner);
    const u32 barrier = mapa(full, owner);
#pragma unroll
    for (u32 i = 0; i < kWgN / 2; i += 4)
      st_async_v4_f32(to + i * 128, total[i], total[i + 1], total[i + 2], total[i + 3], barrier);
    return;
  }
  if (tiles > 0 && c.lane < kClusterK && c.lane != owner)  // the last tile's have been read
    mbarrier_arrive_release_cluster(mapa(empty, c.lane));
  if (c.lane == 0) mbarrier_arrive_expect_tx(full, (kClusterK - 1) * kSmem.gathered_bytes);
  while (!mbarrier_try_wait_parity_cluster(full, phase)) {
  }
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i) sum[i] = 0;
  u32 next = from;
#pragma unroll 1
  for (u32 part = 0; part < kClusterK; ++part) {
    if (part == c.rank) {
#pragma unroll
      for (u32 i = 0; i < kWgN / 2; ++i) sum[i] += total[i];
    } else {
#pragma unroll
      for (u32 i = 0; i < kWgN / 2; i += 4) {
        const float4 x = ld_shared_v4_f32(next + i * 128);
        sum[i] += x.x, sum[i + 1] += x.y, sum[i + 2] += x.z, sum[i + 3] += x.w;
      }
      next += kSmem.gathered_bytes;
    }
  }
#pragma unroll
  for (u32 i = 0; i < kWgN / 2; ++i) total[i] = sum[i];
}

// The stage is read: lets the producers of every CTA that shares it refill it.
KILN_DEVICE void release(const Consumer& c, u32 stage) {
  const u32 empty = c.smem + kSmem.empty + stage * 8;
  if constexpr (!kShares) {
    if (c.lane == 0) mbarrier_arrive(empty);
  } else {
    if (c.releases) mbarrier_arrive_cluster(empty, c.lane);
  }
}

// A 64-row part of A and this warpgroup's columns of B in a k-block of a stage.
KILN_DEVICE u64 descriptor_a(const Consumer& c, u32 stage, u32 block) {
  // A tile of 8 rows repeats them; what a WGMMA reads beyond 16 or 32 is in the next stages.
  return matrix_descriptor<kBlockM == 8 ? 0 : 8 * kBlockK>(
      c.smem + kSmem.a + stage * kSmem.a_stage_bytes + (block * kBlockM + c.row) * kBlockK);
}
KILN_DEVICE u64 descriptor_b(const Consumer& c, u32 stage, u32 block) {
  return matrix_descriptor(c.smem + kSmem.b + stage * kSmem.b_stage_bytes +
                           (block * kBlockN + c.column) * kBlockK);
}
constexpr u32 kLowerRows = kBlockM == 8 ? 0 : 8;  // a thread's second row, from its first

// All waves of one k-block: start the WGMMAs, under the first of a tile store the previous tile,
// then promote. `waves` of them have valid rows, at least one. On entry the stage is full.
template <bool kFirst>
KILN_DEVICE void multiply(const GemmParams& p, const Consumer& c, ConsumerState& state,
                          float (&total)[kWaves][kWgN / 2], float (&sum)[kWgN / 2], u32 tile_column,
                          u32 waves) {
  const u32 stage = state.ring.stage;
  float columns[kColumnValues];
  if constexpr (!kColumnScales) load_column_scales(columns, c, stage, 0, tile_column);
  const u32 sfa = c.smem + kSmem.sfa + stage * kSmem.sfa_stage_bytes +
                  (c.row + (c.warp % 4 * kStoreRows + c.lane / 4) % kBlockM) * 4;
  const u64 a = descriptor_a(c, stage, 0), b = descriptor_b(c, stage, 0);
#pragma unroll
  for (u32 wave = 0; wave < kWaves; ++wave) {
    // A tile's first k-block computes every wave: it overwrites the totals, which would otherwise
    // live on from tile to tile and cost registers that are not there.
    if (kRowGroups && !kFirst && wave > 0 && wave >= waves) break;
    const float2 row_scales{ld_shared_f32(sfa + wave * kWaveStride * 4),
                            ld_shared_f32(sfa + (wave * kWaveStride + kLowerRows) * 4)};
    start_mma(sum, a + wave * (kWaveStride * kBlockK >> 4), b);
    // Many loads: after the WGMMAs have started. H200, 4096x4096x7168: 269 us before them, 257
    // after.
    if (kColumnScales && wave == 0) load_column_scales(columns, c, stage, 0, tile_column);
    if constexpr (kFirst) {
      if (state.pending) store_wave(p, c, state.slots, total[wave], state.place, wave);
    }
    float products[kWgN / 2];
    if constexpr (kEarlyProducts) make_products(products, row_scales, columns);
    wgmma_wait_group<0>();
    keep(sum);
    const bool last_wave = wave + 1 == (kRowGroups && !kFirst ? waves : kWaves);
    if (last_wave) release(c, stage);
    if constexpr (kEarlyProducts) {
      promote<kFirst>(total[wave], sum, products);
    } else {
      promote<kFirst>(total[wave], sum, row_scales, columns);
    }
  }
}

// kBatch k-blocks of a stage from `block` on, of a tile of one wave.
template <bool kFirst>
KILN_DEVICE void multiply_batch(const GemmParams& p, const Consumer& c, ConsumerState& state,
                                float (&total)[kWgN / 2], float (&sums)[kBatch][kWgN / 2],
                                u32 tile_column, u32 block) {
  const u32 stage = state.ring.stage;
  const u32 sfa = c.smem + kSmem.sfa + stage * kSmem.sfa_stage_bytes +
                  (c.row + (c.warp % 4 * kStoreRows + c.lane / 4) % kBlockM) * 4;
  float2 row_scales[kBatch];
  float columns[kBatch][kColumnValues];
#pragma unroll
  for (u32 i = 0; i < kBatch; ++i) {
    const u32 rows = sfa + (block + i) * kBlockM * 4;
    row_scales[i] = {ld_shared_f32(rows), ld_shared_f32(rows + kLowerRows * 4)};
    load_column_scales(columns[i], c, stage, block + i, tile_column);
  }
#pragma unroll
  for (u32 i = 0; i < kBatch; ++i)
    start_mma(sums[i], descriptor_a(c, stage, block + i), descriptor_b(c, stage, block + i));
  if (kFirst && state.pending) store_wave(p, c, state.slots, total, state.place, 0);
  wgmma_wait_group<0>();
#pragma unroll
  for (u32 i = 0; i < kBatch; ++i) keep(sums[i]);
  if (block + kBatch == kStageBlocks) release(c, stage);
  promote<kFirst>(total, sums[0], row_scales[0], columns[0]);
#pragma unroll
  for (u32 i = 1; i < kBatch; ++i) promote<false>(total, sums[i], row_scales[i], columns[i]);
}

// Which of this warp's rows are the tile's, for each wave. With labels a row's own label decides.
KILN_DEVICE Place place_of(const GemmParams& p, const Consumer& c, const Tile& t) {
  Place place{t.row + c.row + c.warp % 4 * kStoreRows, t.column + c.column, t.slice, {}};
  if constexpr (kRowGroups) {
#pragma unroll
    for (u32 wave = 0; wave < kWaves; ++wave) {
      const u32 row = place.row + wave * kWaveStride + c.lane;
      bool is_valid = c.lane < kBoxRowsD && row >= t.row_begin && row < t.row_end;
      if (kLabels && is_valid) is_valid = static_cast<u32>(p.grouping[row]) == t.group;
      place.valid[wave / 2] |= __ballot_sync(0xffffffffu, is_valid) << wave % 2 * kStoreRows;
    }
  }
  return place;
}

// One stage, which is full.
template <bool kFirst>
KILN_DEVICE void multiply_stage(const GemmParams& p, const Consumer& c, ConsumerState& state,
                                float (&total)[kWaves][kWgN / 2], float (&sums)[kBatch][kWgN / 2],
                                u32 tile_column, u32 waves) {
  if constexpr (kStageBlocks == 1) {
    multiply<kFirst>(p, c, state, total, sums[0], tile_column, waves);
  } else {
    multiply_batch<kFirst>(p, c, state, total[0], sums, tile_column, 0);
#pragma unroll
    for (u32 block = kBatch; block < kStageBlocks; block += kBatch)
      multiply_batch<false>(p, c, state, total[0], sums, tile_column, block);
  }
  state.ring.advance(kWarpgroupsK);
}

// One tile. Its first stage is full.
KILN_DEVICE void compute_tile(const GemmParams& p, const Consumer& c, ConsumerState& state,
                              float (&total)[kWaves][kWgN / 2], float (&sums)[kBatch][kWgN / 2],
                              const Tile& t, u32 waves) {
  const Place place = place_of(p, c, t);
  const auto first = [&] {
    multiply_stage<true>(p, c, state, total, sums, t.column, waves);
    if constexpr (kLoadC) {
      if (c.lane == 0 && c.stores) request_c(p, c, place);
    }
  };
  const auto next = [&] {
    wait(c.smem + kSmem.full + state.ring.stage * 8, state.ring.phase);
    multiply_stage<false>(p, c, state, total, sums, t.column, waves);
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
    const u32 steps = kColumnScales ? t.steps : kPartStages;
#pragma unroll kUnrollK
    for (u32 step = c.part + kWarpgroupsK; step < steps; step += kWarpgroupsK) next();
  }
  if constexpr (kWarpgroupsK > 1) {
    add_parts(c, total[0]);
    state.ring = state.next_tile(c.part);
  }
  state.place = place;
  if constexpr (kClusterK > 1) {
    if (c.part == 0 && c.warp % 4 < kStoreWarps) gather_parts(c, state.tiles, total[0], sums[0]);
    ++state.tiles;
  }
  state.pending = c.stores;
}

// A tile without valid rows for this warpgroup: its stages are only handed back, when the whole
// warp has seen them. (Elsewhere the WGMMAs hold a warp together.)
KILN_DEVICE void pass_tile(const Consumer& c, Ring<kStages>& ring) {
  for (u32 step = 0; step < kPartStages; ++step, ring.advance()) {
    wait(c.smem + kSmem.full + ring.stage * 8, ring.phase);
    __syncwarp();
    release(c, ring.stage);
  }
}

KILN_DEVICE Consumer this_consumer(const Work& w, u32 smem) {
  Consumer c;
  const u32 warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128 - 1, 0);
  const u32 consumer = kWarpgroupsK == 1 ? warpgroup : warpgroup % kPartConsumers;
  c.smem = smem;
  c.part = kWarpgroupsK == 1 ? 0 : warpgroup / kPartConsumers;
  c.warp = threadIdx.x / 32 % 4 + consumer * 4;
  c.lane = threadIdx.x % 32;
  c.rank = w.rank;
  c.row = consumer % kWarpgroupsM * kWaveRows;
  c.column = consumer / kWarpgroupsM * kWgN;
  c.releases =
      c.lane < kClusterSize && (c.lane % kClusterM == w.cta_m || c.lane / kClusterM == w.cta_n);
  const u32 store_warp = consumer * kStoreWarps + c.warp % 4;
  c.stores = c.part == 0 && c.warp % 4 < kStoreWarps &&
             (kClusterK == 1 || store_warp % kClusterK == w.rank);
  c.slots = smem + kSmem.d + store_warp * kSlots * kSlotBytes;
  c.c_full = smem + kSmem.c_full + store_warp * kSlots * 8;
  return c;
}

KILN_DEVICE void consume(const GemmParams& p, const Work& w, u32 smem) {
  const Consumer c = this_consumer(w, smem);
  float total[kWaves][kWgN / 2], sums[kBatch][kWgN / 2];
  ConsumerState state;
  state.ring.advance(c.part);
  while (true) {
    wait(smem + kSmem.full + state.ring.stage * 8, state.ring.phase);
    const Tile t = read_tile(smem + kSmem.site + state.ring.stage * kSiteBytes);
    if (t.steps == 0) break;
    // Waves of this warpgroup that have valid rows.
    const u32 rows = kRowGroups ? valid_rows(t.row, t.row_end) : kBlockM;
    const u32 waves = rows <= c.row ? 0 : (rows - c.row + kWaveStride - 1) / kWaveStride;
    if (kRowGroups && waves == 0) {
      pass_tile(c, state.ring);
    } else {
      compute_tile(p, c, state, total, sums, t, waves);
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

// The thread that loads the operands has made the barriers, and needs nobody else to begin.
constexpr bool kStartsAlone = !kShares && !kRowGroups;

KILN_DEVICE void init_barriers(u32 smem) {
  constexpr u32 kSharers =
      kClusterM + kClusterN - 1;  // CTAs that read a stage's data, itself included
#pragma unroll
  for (u32 s = 0; s < kStages; ++s) {
    mbarrier_init(smem + kSmem.full + s * 8, 1 + kScaleArrivals);
    mbarrier_init(smem + kSmem.empty + s * 8, kPartConsumers * 4 * kSharers);
  }
  for (u32 i = 0; kLoadC && i < kPartConsumers * kStoreWarps * kSlots; ++i)
    mbarrier_init(smem + kSmem.c_full + i * 8, 1);
  for (u32 i = 0; kClusterK > 1 && i < kPartConsumers * kStoreWarps; ++i) {
    mbarrier_init(smem + kSmem.gather_full + i * 8, 1);
    mbarrier_init(smem + kSmem.gather_empty + i * 8, 1);
  }
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
  const u32 warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  const Work w = this_work(p);
  if (warp == 0) {
    if (elect_sync()) {
      prefetch_maps(params);
      init_barriers(smem);
    }
    __syncwarp();
  }
  if constexpr (kClusterSize > 1) barrier_cluster_arrive_relaxed();
  if constexpr (kShares) {
    barrier_cluster_wait();
  } else if (!kStartsAlone) {
    __syncthreads();
  } else if (warp == 0) {
    bar_arrive<kStartBarrier, kThreads>();
  } else {
    bar_sync<kStartBarrier, kThreads>();
  }
  griddepcontrol_wait();
  if constexpr (kRowGroups) make_group_table(p, smem);

  if (warp < 4) {
    if constexpr (kRedistributes) setmaxnreg_dec<kProducerRegisters>();
    if (warp == 0 && elect_sync()) produce_operands(params, w, smem);
    if (!kColumnScales && warp == 1) produce_column_scales(p, w, smem);
    if (kSfaRowMajor && warp >= 2) produce_row_scales(p, w, smem);
    __syncwarp();
    if constexpr (kClusterK > 1) barrier_cluster_wait();
  } else {
    if constexpr (kRedistributes) setmaxnreg_inc<kConsumerRegisters>();
    if constexpr (kClusterK > 1) barrier_cluster_wait();  // before it writes to other CTAs
    consume(p, w, smem);
    __syncwarp();
  }
  if constexpr (kShares) {
    barrier_cluster_arrive();
    barrier_cluster_wait();
  }
}

// How D leaves a consumer warp: staged in shared memory, 16 rows x one chunk at a time, stored by
// TMA. Every warp has its own slots, so that no warp waits for another. Protocol: gemm_dense.cuh.
#pragma once

#include "gemm_shape.cuh"
#include "pipeline.cuh"

// Address of a 16-byte unit of a staged row under the chunk's swizzle.
KILN_DEVICE u32 staged(u32 slot, u32 row, u32 unit) {
  constexpr u32 kBytes = kSmem.d_chunk_bytes;
  const u32 flat = row * kBytes + unit * 16;
  return slot + (flat ^ (((flat >> 7) & (kBytes / 16 - 1)) << 4));
}

KILN_DEVICE void
wait_slot_free() {  // this lane's stores have left at least one of the kSlots slots
  cp_async_bulk_wait_group_read<kSlots - 1>();
}

KILN_DEVICE void store_chunk(const GemmParams& p, const Consumer& c, u32 slot, u32 row,
                             u32 column) {
  fence_proxy_async();
  __syncwarp();
  if (c.lane == 0) {
    tma_store_2d(p.d, column, row, slot);
    cp_async_bulk_commit_group();
  }
}

// Stores one wave of a packed BF16 tile. `row`, `column`: this warp's first element in D.
KILN_DEVICE void store_packed(const GemmParams& p, const Consumer& c, u32& slot_index,
                              const u32 (&packed)[kWgN / 4], u32 row, u32 column) {
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
  tma_load_2d(c.slots + slot * kSlotBytes, p.d, column + chunk * kChunkColumns,
              row + wave * kWaveRows, c.c_full + slot * 8);
}

// Asks for as much of C as the slots hold. One lane.
KILN_DEVICE void request_c(const GemmParams& p, const Consumer& c, u32 row, u32 column) {
  cp_async_bulk_wait_group_read<0>();
#pragma unroll
  for (u32 i = 0; i < kSlots; ++i) load_c(p, c, i, row, column);
}

// Stores a whole FP32 tile, adding C when accumulating.
KILN_DEVICE void store_f32(const GemmParams& p, const Consumer& c, u32& c_phases,
                           const float (&total)[kWaves][kWgN / 2], u32 row, u32 column) {
  constexpr u32 kGroups =
      kChunkColumns / 8 > 0 ? kChunkColumns / 8 : 1;  // 8-column groups of a chunk
  static_assert(kChunkColumns % 8 == 0, "an FP32 chunk holds whole fragments of 8 columns");
#pragma unroll
  for (u32 index = 0; index < kWaves * kChunksPerWave; ++index) {
    const u32 wave = index / kChunksPerWave, chunk = index % kChunksPerWave,
              slot_index = index % kSlots;
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
        const u32 address =
            staged(slot, c.lane / 4 + half * 8, group * 2 + c.lane % 4 / 2) + c.lane % 2 * 8;
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

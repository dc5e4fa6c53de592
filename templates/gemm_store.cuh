// How D leaves a consumer warp: staged in shared memory, 16 rows x one chunk at a time, stored by
// TMA. Every warp has its own slots, so that no warp waits for another. Protocol: gemm.cuh.
#pragma once

#include "gemm_shape.cuh"
#include "pipeline.cuh"

// Where one warp's 16 rows of one wave, or of one pass over its columns, go.
struct Piece {
  u32 row, column;  // first element in D
  u32 slice;
  u32 valid;  // bit i: row i belongs to the tile. Always all of them where the maps clip D.
};
constexpr u32 kAllRows = (1u << kBoxRowsD) - 1;
constexpr u32 kRowsOfThread = kBlockM == 8 ? 1 : 2;  // of a piece

// Where one warp's part of a tile goes.
struct Place {
  u32 row, column;  // of the first wave
  u32 slice;
  u32 valid[(kWaves + 1) / 2];  // the waves' valid rows, two waves in a word
};

KILN_DEVICE Piece piece_of(const Place& place, u32 piece) {
  const u32 wave = piece / kPasses;
  const u32 valid =
      kRowGroups ? place.valid[wave / 2] >> wave % 2 * kStoreRows & kAllRows : kAllRows;
  return {place.row + wave * kWaveStride, place.column + piece % kPasses * kMmaN, place.slice,
          valid};
}

KILN_DEVICE u32 staged(u32 slot, u32 row, u32 unit) {
  return slot + staged_offset(row, unit, kSmem.d_chunk_bytes);
}

// This lane's stores have left at least one of the kSlots slots.
KILN_DEVICE void wait_slot_free() { cp_async_bulk_wait_group_read<kSlots - 1>(); }

// Copies the valid rows of a staged chunk: what lies behind the last row of a group is another's.
KILN_DEVICE void copy_valid_rows(const GemmParams& p, const Consumer& c, u32 slot,
                                 const Piece& at) {
  constexpr u32 kUnits = kSmem.d_chunk_bytes / 16, kUnitColumns = kOutBf16 ? 8 : 4;
  u8* const d = static_cast<u8*>(p.d_rows) +
                (at.row * p.ldd + (kSlicedD ? at.slice * p.d_group_stride : 0)) * kOutBytes;
#pragma unroll 1  // rare: registers matter more
  for (u32 i = c.lane; i < kStoreRows * kUnits; i += 32) {
    const u32 row = i / kUnits, unit = i % kUnits;
    const u32 column = at.column + unit * kUnitColumns;
    if ((at.valid >> row & 1) == 0 || column >= kN) continue;
    *reinterpret_cast<uint4*>(d + (row * p.ldd + column) * kOutBytes) =
        ld_shared_v4_u32(staged(slot, row, unit));
  }
}

KILN_DEVICE void store_box(const GemmParams& p, u32 slot, const Piece& at) {
  if constexpr (kReduce && kSlicedD) {
    tma_reduce_add_3d(p.d, at.column, at.row, at.slice, slot);
  } else if constexpr (kReduce) {
    tma_reduce_add_2d(p.d, at.column, at.row, slot);
  } else if constexpr (kSlicedD) {
    tma_store_3d(p.d, at.column, at.row, at.slice, slot);
  } else {
    tma_store_2d(p.d, at.column, at.row, slot);
  }
}

// `at` is the chunk's place. Every chunk closes a bulk group, also an empty one: the slots are
// counted in groups.
KILN_DEVICE void store_chunk(const GemmParams& p, const Consumer& c, u32 slot, const Piece& at) {
  if (!kRowGroups || at.valid == kAllRows) {
    fence_proxy_async();
    __syncwarp();
    if (c.lane == 0) store_box(p, slot, at);
  } else {
    __syncwarp();
    if (at.valid != 0) copy_valid_rows(p, c, slot, at);
    fence_proxy_async();  // C may come into this slot next
    __syncwarp();
  }
  if (c.lane == 0) cp_async_bulk_commit_group();
}

// ---- one piece of a tile ----

// 16 rows x one chunk of BF16, as stmatrix takes it.
KILN_DEVICE void stage_bf16(u32 slot, u32 lane, const float* values) {
  constexpr u32 kUnits = kChunkColumns / 8;
  const u32 row = lane % 16;
#pragma unroll
  for (u32 unit = 0; unit + 1 < kUnits; unit += 2) {
    const float* v = values + unit * 4;
    stmatrix_x4(staged(slot, row, unit + lane / 16), cvt_bf16x2(v[0], v[1]), cvt_bf16x2(v[2], v[3]),
                cvt_bf16x2(v[4], v[5]), cvt_bf16x2(v[6], v[7]));
  }
  if constexpr (kUnits % 2 == 1) {
    const float* v = values + (kUnits - 1) * 4;
    stmatrix_x2(staged(slot, row, kUnits - 1), cvt_bf16x2(v[0], v[1]), cvt_bf16x2(v[2], v[3]));
  }
}

// Two neighbouring elements of a fragment into the slot, added to C where that was loaded.
KILN_DEVICE void stage_pair(u32 slot, u32 row, u32 unit, u32 lane, const float* value) {
  float2 c{0.f, 0.f};
  if constexpr (kOutBf16) {
    const u32 address = staged(slot, row, unit) + lane % 4 * 4;
    if constexpr (kLoadC) {
      const u32 pair = ld_shared_u32(address);
      c = {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
    }
    st_shared_u32(address, cvt_bf16x2(c.x + value[0], c.y + value[1]));
  } else {
    const u32 address = staged(slot, row, unit * 2 + lane % 4 / 2) + lane % 2 * 8;
    if constexpr (kLoadC) c = ld_shared_v2_f32(address);
    st_shared_v2_f32(address, c.x + value[0], c.y + value[1]);
  }
}

KILN_DEVICE void stage_chunk(u32 slot, u32 lane, const float* values) {
  static_assert(kChunkColumns % 8 == 0, "a chunk holds whole fragments of 8 columns");
  if constexpr (kOutBf16 && !kLoadC) {
    stage_bf16(slot, lane, values);
  } else {
    constexpr u32 kUnits = kChunkColumns / 8;
    constexpr u32 kBit = kOutBf16 ? 0 : flipped_bit(kSmem.d_chunk_bytes);
    const bool flips = !kOutBf16 && fragment_in_turn(0, lane / 4, kSmem.d_chunk_bytes) != 0;
#pragma unroll
    for (u32 unit = 0; unit < kUnits; ++unit) {
#pragma unroll
      for (u32 half = 0; half < kRowsOfThread; ++half) {
        const float* const own = values + unit * 4 + half * 2;
        const float* const other = values + (unit ^ kBit) * 4 + half * 2;
        const float value[2] = {flips ? other[0] : own[0], flips ? other[1] : own[1]};
        stage_pair(slot, lane / 4 + half * 8, flips ? unit ^ kBit : unit, lane, value);
      }
    }
  }
}

constexpr u32 kChunksPerTile = kPieces * kChunksPerPiece;

// Requests chunk `index` (over all pieces) of C into its slot.
KILN_DEVICE void load_c(const GemmParams& p, const Consumer& c, u32 index, const Place& place) {
  const u32 slot = index % kSlots, chunk = index % kChunksPerPiece;
  const u32 to = c.slots + slot * kSlotBytes, barrier = c.c_full + slot * 8;
  const Piece piece = piece_of(place, index / kChunksPerPiece);
  const u32 column = piece.column + chunk * kChunkColumns;
  mbarrier_arrive_expect_tx(barrier, kBoxBytesD);
  if constexpr (kSlicedD) {
    tma_load_3d(to, p.d, column, piece.row, place.slice, barrier);
  } else {
    tma_load_2d(to, p.d, column, piece.row, barrier);
  }
}

// Asks for as much of C as the slots hold. One lane.
KILN_DEVICE void request_c(const GemmParams& p, const Consumer& c, const Place& place) {
  cp_async_bulk_wait_group_read<0>();
#pragma unroll
  for (u32 i = 0; i < kSlots; ++i) load_c(p, c, i, place);
}

// Slots are taken in turn; when C is loaded, chunk i of every tile has slot i % kSlots, so that it
// can be requested before.
struct Slots {
  u32 next = 0;
  u32 c_phases = 0;
};

// From the registers, two neighbouring elements at a time.
KILN_DEVICE void store_direct(const GemmParams& p, const Consumer& c,
                              const float (&total)[kMmaN / 2], const Place& place) {
#pragma unroll
  for (u32 half = 0; half < kRowsOfThread; ++half) {
    const u32 row = place.row + c.lane / 4 + half * 8;
    if (row >= p.m) continue;
    u8* const d = static_cast<u8*>(p.d_rows) + (row * p.ldd + place.column) * kOutBytes;
#pragma unroll
    for (u32 i = 0; i < kMmaN / 8; ++i) {
      const u32 column = i * 8 + c.lane % 4 * 2;
      const float* const value = total + i * 4 + half * 2;
      if (kN % kBlockN != 0 && place.column + column >= kN) continue;
      if constexpr (kOutBf16) {
        *reinterpret_cast<u32*>(d + column * kOutBytes) = cvt_bf16x2(value[0], value[1]);
      } else {
        *reinterpret_cast<float2*>(d + column * kOutBytes) = float2{value[0], value[1]};
      }
    }
  }
}

KILN_DEVICE void store_piece(const GemmParams& p, const Consumer& c, Slots& slots,
                             const float (&total)[kMmaN / 2], const Place& place, u32 index) {
  if constexpr (kDirect) return store_direct(p, c, total, place);
  Piece piece = piece_of(place, index);
  if (kRowGroups && !kLoadC && piece.valid == 0) return;
#pragma unroll
  for (u32 chunk = 0; chunk < kChunksPerPiece; ++chunk, piece.column += kChunkColumns) {
    const u32 of_tile = index * kChunksPerPiece + chunk;
    const u32 slot_index = kLoadC ? of_tile % kSlots : slots.next;
    const u32 slot = c.slots + slot_index * kSlotBytes;
    if constexpr (kLoadC) {
      wait(c.c_full + slot_index * 8, (slots.c_phases >> slot_index) & 1);
      slots.c_phases ^= 1u << slot_index;
    } else {
      slots.next = slots.next + 1 == kSlots ? 0 : slots.next + 1;
      if (c.lane == 0) wait_slot_free();
      __syncwarp();
    }
    stage_chunk(slot, c.lane, total + chunk * (kChunkColumns / 2));
    store_chunk(p, c, slot, piece);
    if constexpr (kLoadC) {
      if (of_tile + kSlots < kChunksPerTile && c.lane == 0) {
        cp_async_bulk_wait_group_read<0>();
        load_c(p, c, of_tile + kSlots, place);
      }
    }
  }
}

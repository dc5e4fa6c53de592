// Both FP8 casts of a BF16 matrix in one pass: of the matrix into out, and of its transpose into
// out_t, each with scales of its own. Bit for bit what casting the two separately gives.
//
// Launch: 256 threads, grid x (one-dimensional): ceil(rows / 128) * ceil(cols / 128) CTAs, one per
// block of 128x128 elements, in the order of block_of_cta().
//
// A block is read once, into registers: thread t holds the 8x8 elements at rows t/16*8 and columns
// t%16*8, so that a warp reads two 256-byte runs per step; all eight steps are in flight at once.
//   1. largest magnitudes: along rows by shuffles between the 16 lanes of a row; along columns in
//      registers, between the warp's two halves by a shuffle, between the warps in shared memory
//   2. (1x128) 128 threads compute the scales of the columns, 128 those of the rows; each division
//      is done once and the inverses are handed out through shared memory
//   3. the thread casts its elements twice. Rows go straight to out: 16 lanes write 128 bytes.
//      Columns go to a tile in shared memory, from which 8 lanes write 128 bytes of a row of out_t
// Every line of 128 bytes that lies in the block is so read or written whole. The words of the tile
// are permuted within a column (tile_unit(), tile_word()), so that neither the 4-byte stores of a
// warp nor the 16-byte loads of a quarter meet in a bank.
//
// Rows beyond the matrix count as zeros: they do not change a scale and become the zeros that fill
// up the rows of out_t. A lane whose columns are beyond it reads zeros and writes only to the tile.
#pragma once

#include "quantize_common.cuh"

constexpr u32 kPatch = 8;        // a thread holds kPatch x kPatch elements
constexpr u32 kPatchLanes = 16;  // threads side by side; as many lie below each other
constexpr u32 kWarps = kQuantizeThreads / 32;
static_assert(kPatch * kPatchLanes == 128, "the patches of a CTA cover a block of 128x128");
static_assert(kPatchLanes * kPatchLanes == kQuantizeThreads, "one patch per thread");

struct Block {
  u32 row, column;  // in blocks
};

// CTAs that run at the same time cover bands of 8 block rows, so that they write neighbouring lines
// of out and of out_t, and whole sectors of scales, whichever side of the matrix is long.
KILN_DEVICE Block block_of_cta(const QuantizeParams& p) {
  constexpr u32 kBand = 8;
  const u32 row_blocks = static_cast<u32>((p.rows + 127) / 128);
  const u32 column_blocks = static_cast<u32>((p.cols + 127) / 128);
  const u32 band = blockIdx.x / (kBand * column_blocks);
  const u32 index = blockIdx.x % (kBand * column_blocks);
  const u32 height = min(kBand, row_blocks - band * kBand);
  return {band * kBand + index % height, index / height};
}

// Where a thread's patch lies, and how much of it there is. Extents are below 2^31.
struct Position {
  u32 row, column;  // first ones
  u32 rows;         // of the patch inside the matrix, 0..8; 0 if its columns are outside
  u32 lane;         // of kPatchLanes: which columns of the block
  u32 row_patch;    // which rows of the block
};
KILN_DEVICE Position patch_position(const QuantizeParams& p, const Block& block) {
  Position at;
  at.lane = threadIdx.x % kPatchLanes;
  at.row_patch = threadIdx.x / kPatchLanes;
  at.row = block.row * 128 + at.row_patch * kPatch;
  at.column = block.column * 128 + at.lane * kPatch;
  const u32 rows = static_cast<u32>(p.rows), cols = static_cast<u32>(p.cols);
  at.rows = at.column < cols && at.row < rows ? min(rows - at.row, kPatch) : 0;
  return at;
}

struct Patch {
  u32 pairs[kPatch][kPatch / 2];  // BF16; the lower half is the column to the left
};

KILN_DEVICE Patch load_patch(const QuantizeParams& p, const Position& at) {
  const u8* address = static_cast<const u8*>(p.in) + (at.row * p.ld_in + at.column) * 2;
  Patch patch;
#pragma unroll
  for (u32 i = 0; i < kPatch; ++i) {
    uint4 raw{0, 0, 0, 0};
    if (i < at.rows) raw = __ldcs(reinterpret_cast<const uint4*>(address));
    address += p.ld_in * 2;
    patch.pairs[i][0] = raw.x;
    patch.pairs[i][1] = raw.y;
    patch.pairs[i][2] = raw.z;
    patch.pairs[i][3] = raw.w;
  }
  return patch;
}

KILN_DEVICE float low_bf16(u32 pair) { return __uint_as_float(pair << 16); }
KILN_DEVICE float high_bf16(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

KILN_DEVICE u32 magnitudes(u32 pair) { return pair & 0x7fff7fffu; }

struct Maxima {
  u32 pairs[kPatch / 2];  // BF16, of eight rows or columns, the first of two in the lower half
};

struct PatchMaxima {
  Maxima rows, columns;
};

KILN_DEVICE PatchMaxima patch_maxima(const Patch& patch) {
  PatchMaxima result;
  u32 of_row[kPatch];
#pragma unroll
  for (u32 i = 0; i < kPatch; ++i) {
#pragma unroll
    for (u32 j = 0; j < kPatch / 2; ++j) {
      const u32 pair = magnitudes(patch.pairs[i][j]);
      of_row[i] = j == 0 ? pair : max_bf16x2(of_row[i], pair);
      u32& of_column = result.columns.pairs[j];
      of_column = i == 0 ? pair : max_bf16x2(of_column, pair);
    }
  }
#pragma unroll
  for (u32 i = 0; i < kPatch / 2; ++i) {
    const u32 upper = of_row[2 * i], lower = of_row[2 * i + 1];
    result.rows.pairs[i] =
        max_bf16x2(__byte_perm(upper, lower, 0x5410), __byte_perm(upper, lower, 0x7632));
  }
  return result;
}

KILN_DEVICE void max_with_lane(Maxima& maxima, u32 distance) {
#pragma unroll
  for (u32& pair : maxima.pairs)
    pair = max_bf16x2(pair, __shfl_xor_sync(0xffffffffu, pair, distance));
}

// The block of out_t on its way: [column][8 units of 16 bytes], a unit of four words of 4 rows.
using Tile = uint4[128 * 8];
KILN_DEVICE u32 tile_unit(u32 column, u32 unit) {
  return column * 8 + (unit ^ (column / kPatch % 8));
}
// In the columns from 64 on, words 0 and 1 of a unit are exchanged, and so are 2 and 3.
KILN_DEVICE u32 tile_word(u32 column, u32 word) { return word ^ (column / 64); }

// A pair goes below those that the word has: packing and shifting is one instruction then.
KILN_DEVICE void put_below(u32& word, u32 pair, bool is_first) {
  word = is_first ? pair : pair | word << 16;
}

// Casts four rows of the patch twice: into `rows` (4 columns in each word), and into a word of each
// column in the tile, of which `words` is the first column's.
template <class Inverses>
KILN_DEVICE void cast_half_patch(const Patch& patch, u32 half, const Inverses& inverses,
                                 u32 (&rows)[4][2], u32* words) {
  constexpr u32 kWordsPerColumn = 32;
  const float4 four = inverses.rows(half);
  const float by_row[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (u32 step = 0; step < kPatch / 2; ++step) {
    const u32 j = step ^ 1;  // what comes first ends up in the upper half
    const float2 by_column = inverses.columns(j);
    u32 left_word, right_word;
#pragma unroll
    for (u32 k = 0; k < 2; ++k) {
      const u32 i = k == 0 ? 2 : 0;
      const u32 upper = patch.pairs[half * 4 + i][j], lower = patch.pairs[half * 4 + i + 1][j];
      const float a = low_bf16(upper), b = high_bf16(upper);
      const float c = low_bf16(lower), d = high_bf16(lower);
      put_below(rows[i][j / 2], fp8x2(a * by_row[i], b * by_row[i]), j % 2 == 1);
      put_below(rows[i + 1][j / 2], fp8x2(c * by_row[i + 1], d * by_row[i + 1]), j % 2 == 1);
      put_below(left_word, fp8x2(a * by_column.x, c * by_column.x), i == 2);
      put_below(right_word, fp8x2(b * by_column.y, d * by_column.y), i == 2);
    }
    words[2 * j * kWordsPerColumn] = left_word;
    words[(2 * j + 1) * kWordsPerColumn] = right_word;
  }
}

// Writes the patch to out and, transposed, to the tile. `Inverses` gives 1 / scale for four rows
// and for two columns of the patch. Four rows at a time: few results then wait in registers.
template <class Inverses>
KILN_DEVICE void cast_patch(const QuantizeParams& p, const Position& at, const Patch& patch,
                            const Inverses& inverses, Tile& tile) {
  const u32 column = at.lane * kPatch;
  u32* const unit = reinterpret_cast<u32*>(&tile[tile_unit(column, at.row_patch / 2)]);
  u8* out = static_cast<u8*>(p.out) + at.row * p.ld_out + at.column;
#pragma unroll
  for (u32 half = 0; half < 2; ++half) {
    u32 rows[4][2];
    u32* const words = unit + tile_word(column, at.row_patch % 2 * 2 + half);
    cast_half_patch(patch, half, inverses, rows, words);
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
      if (half * 4 + i < at.rows) *reinterpret_cast<uint2*>(out) = uint2{rows[i][0], rows[i][1]};
      out += p.ld_out;
    }
  }
}

// Writes the tile to out_t, in whole units: ld_out_t has room for the last one of a row.
KILN_DEVICE void store_tile(const QuantizeParams& p, const Block& block, const Tile& tile) {
  constexpr u32 kColumns = kQuantizeThreads / 8;  // at once
  const u32 unit = threadIdx.x % 8;
  const u32 row = block.row * 128 + unit * 16;
  const u32 first_column = block.column * 128 + threadIdx.x / 8;
  if (row >= p.rows) return;
  u8* address = static_cast<u8*>(p.out_t) + first_column * p.ld_out_t + row;
#pragma unroll
  for (u32 i = 0; i < 128; i += kColumns) {
    if (first_column + i < p.cols) {
      const uint4 rows = tile[tile_unit(i + threadIdx.x / 8, unit)];  // words as tile_word() says
      *reinterpret_cast<uint4*>(address) = i < 64 ? rows : uint4{rows.y, rows.x, rows.w, rows.z};
    }
    address += kColumns * p.ld_out_t;
  }
}

// 1x128: a scale for each row of the block, and one for each column.
struct alignas(16) TwoWayRowsSmem {
  union {
    u16 column_largest[kWarps][128];  // BF16, of each warp's rows
    Tile tile;
  };
  u16 row_largest[128];  // BF16
  float column_inverses[128], row_inverses[128];
};

KILN_DEVICE void share_maxima(const Patch& patch, const Position& at, TwoWayRowsSmem& smem) {
  auto [rows, columns] = patch_maxima(patch);
#pragma unroll
  for (u32 distance = kPatchLanes / 2; distance > 0; distance /= 2) max_with_lane(rows, distance);
  max_with_lane(columns, kPatchLanes);
  if (at.lane == 0)
    *reinterpret_cast<uint4*>(&smem.row_largest[at.row_patch * kPatch]) =
        uint4{rows.pairs[0], rows.pairs[1], rows.pairs[2], rows.pairs[3]};
  if (threadIdx.x % 32 < kPatchLanes)
    *reinterpret_cast<uint4*>(&smem.column_largest[threadIdx.x / 32][at.lane * kPatch]) =
        uint4{columns.pairs[0], columns.pairs[1], columns.pairs[2], columns.pairs[3]};
}

// Thread i computes the scale of column i, thread 128 + i that of row i.
KILN_DEVICE void compute_scales(const QuantizeParams& p, const Block& block, TwoWayRowsSmem& smem) {
  const u32 line = threadIdx.x % 128;
  float largest = 0.0f;  // stays so when there is nothing but NaN
  if (threadIdx.x < 128) {
#pragma unroll
    for (u32 warp = 0; warp < kWarps; ++warp)
      largest = fmaxf(largest, low_bf16(smem.column_largest[warp][line]));
    const float scale = block_scale(largest);
    smem.column_inverses[line] = __fdiv_rn(1.0f, scale);
    const u32 column = block.column * 128 + line;
    if (column < p.cols)
      p.scales_t[kScaleRowMajor ? column * p.ld_scales_t + block.row
                                : block.row * p.ld_scales_t + column] = scale;
  } else {
    largest = fmaxf(largest, low_bf16(smem.row_largest[line]));
    const float scale = block_scale(largest);
    smem.row_inverses[line] = __fdiv_rn(1.0f, scale);
    const u32 row = block.row * 128 + line;
    if (row < p.rows)
      p.scales[kScaleRowMajor ? row * p.ld_scales + block.column
                              : block.column * p.ld_scales + row] = scale;
  }
}

struct LineInverses {  // read from shared memory when they are needed
  const float* of_rows;
  const float* of_columns;
  KILN_DEVICE float4 rows(u32 half) const { return reinterpret_cast<const float4*>(of_rows)[half]; }
  KILN_DEVICE float2 columns(u32 pair) const {
    return reinterpret_cast<const float2*>(of_columns)[pair];
  }
};

KILN_DEVICE void quantize_two_way_rows(const QuantizeParams& p) {
  __shared__ TwoWayRowsSmem smem;
  const Block block = block_of_cta(p);
  const Position at = patch_position(p, block);
  const Patch patch = load_patch(p, at);
  share_maxima(patch, at, smem);
  __syncthreads();
  compute_scales(p, block, smem);
  __syncthreads();  // also: the maxima were read, the tile may take their place
  const LineInverses inverses{smem.row_inverses + at.row_patch * kPatch,
                              smem.column_inverses + at.lane * kPatch};
  cast_patch(p, at, patch, inverses, smem.tile);
  __syncthreads();
  store_tile(p, block, smem.tile);
}

// 128x128: one scale for the block, in scales and in scales_t; both are row-major.
struct BlockInverse {
  float value;
  KILN_DEVICE float4 rows(u32) const { return {value, value, value, value}; }
  KILN_DEVICE float2 columns(u32) const { return {value, value}; }
};

KILN_DEVICE void quantize_two_way_blocks(const QuantizeParams& p) {
  __shared__ Tile tile;
  __shared__ float warp_largest[kWarps];
  const Block block = block_of_cta(p);
  const Position at = patch_position(p, block);
  const Patch patch = load_patch(p, at);
  const Maxima columns = patch_maxima(patch).columns;
  const u32 pair = max_bf16x2(max_bf16x2(columns.pairs[0], columns.pairs[1]),
                              max_bf16x2(columns.pairs[2], columns.pairs[3]));
  float largest = fmaxf(0.0f, fmaxf(low_bf16(pair), high_bf16(pair)));  // 0 if all are NaN
#pragma unroll
  for (u32 distance = 16; distance > 0; distance /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
  if (threadIdx.x % 32 == 0) warp_largest[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (u32 warp = 0; warp < kWarps; ++warp) largest = fmaxf(largest, warp_largest[warp]);
  const float scale = block_scale(largest);
  cast_patch(p, at, patch, BlockInverse{__fdiv_rn(1.0f, scale)}, tile);
  if (threadIdx.x == 0) {
    p.scales[block.row * p.ld_scales + block.column] = scale;
    p.scales_t[block.column * p.ld_scales_t + block.row] = scale;
  }
  __syncthreads();
  store_tile(p, block, tile);
}

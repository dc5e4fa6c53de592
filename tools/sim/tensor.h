// A tensor map as cuTensorMapEncodeTiled makes it here, stored in the map itself, and the walk over
// a box of it.
#pragma once

#include <cstdint>

namespace kiln::sim {

struct TensorMap {
  std::uint64_t magic;
  std::uint64_t address;
  std::uint64_t extents[3];       // columns, rows, slices
  std::uint64_t stride_bytes[2];  // of rows, of slices
  std::uint32_t box[3];
  std::uint32_t element_bytes;
  std::uint32_t swizzle_bytes;  // span; 0: none
  std::uint32_t rank;
  std::uint32_t is_f32;
};
static_assert(sizeof(TensorMap) <= 128);
inline constexpr std::uint64_t kTensorMapMagic = 0x6b696c6e2d746d61ull;

// Where a row of a box lies in global memory; the first `before` of its bytes and all behind
// `before` + `bytes` are outside the tensor.
struct BoxRow {
  char* global;
  std::uint32_t before, bytes;
};
inline std::uint32_t box_rows(const TensorMap& map) {  // of all its slices
  return map.box[1] * (map.rank > 2 ? map.box[2] : 1);
}
inline BoxRow box_row(const TensorMap& map, const std::int32_t* at, std::uint32_t row) {
  const std::int64_t x = at[0], y = std::int64_t{at[1]} + row % map.box[1];
  const std::int64_t z = map.rank > 2 ? std::int64_t{at[2]} + row / map.box[1] : 0;
  const auto columns = static_cast<std::int64_t>(map.extents[0]);
  const bool inside = y >= 0 && y < static_cast<std::int64_t>(map.extents[1]) &&
                      (map.rank < 3 || (z >= 0 && z < static_cast<std::int64_t>(map.extents[2])));
  const std::int64_t begin = x < 0 ? 0 : x;
  const std::int64_t end = x + map.box[0] < columns ? x + map.box[0] : columns;
  if (!inside || begin >= end) return {nullptr, 0, 0};
  const std::uint64_t offset = static_cast<std::uint64_t>(y) * map.stride_bytes[0] +
                               static_cast<std::uint64_t>(z) * map.stride_bytes[1] +
                               static_cast<std::uint64_t>(begin) * map.element_bytes;
  return {reinterpret_cast<char*>(map.address + offset),
          static_cast<std::uint32_t>(begin - x) * map.element_bytes,
          static_cast<std::uint32_t>(end - begin) * map.element_bytes};
}

}  // namespace kiln::sim

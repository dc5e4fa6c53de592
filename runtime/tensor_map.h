// Tensor maps of the GEMM operands, as templates/params.cuh describes them.
//
// Pure host work of about 0.1 us each: no allocation, no lock, no context needed. Addresses and
// strides must already have been checked; a map that the driver still refuses is
// Error{kInvalidArgument} naming the operand. Sizes are in elements.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "runtime/driver.h"
#include "templates/params.cuh"
#include "templates/smem_layout.cuh"

namespace kiln::runtime {

// A row-major matrix in device memory: `rows` x `cols`, `stride` elements from row to row. With
// `slices` it is so many of them, `slice_stride` elements apart, and the map is 3-D {columns, rows,
// slice}.
struct MatrixView {
  const void* address = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;
  std::int64_t slices = 0;  // 0: a 2-D map
  std::int64_t slice_stride = 0;
};

// FP8 operand `name` ("a" or "b"): boxes of 128 bytes of K by box_rows by box_slices, 128-byte
// swizzle. What lies outside the matrix reads as zeros.
void encode_fp8(const Driver& driver, const char* name, const MatrixView& view,
                std::uint32_t box_rows, std::uint32_t box_slices, device::TensorMap* map);

// D, BF16 (element_bytes 2) or FP32 (4): boxes of chunk_bytes by box_rows, swizzled over the
// width of the box; chunk_bytes as d_chunk_bytes() of templates/smem_layout.cuh gives it. Nothing
// is stored outside the matrix.
void encode_output(const Driver& driver, const MatrixView& view, std::int64_t element_bytes,
                   std::uint32_t chunk_bytes, std::uint32_t box_rows, device::TensorMap* map);

// M-major scales `name` ("sfa" or "sfb") as the matrix [k blocks, m or n]: boxes of box_rows
// k-blocks by box_cols values, no swizzle.
void encode_scales(const Driver& driver, const char* name, const MatrixView& view,
                   std::uint32_t box_cols, std::uint32_t box_rows, device::TensorMap* map);

}  // namespace kiln::runtime

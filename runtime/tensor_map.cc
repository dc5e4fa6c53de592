#include "runtime/tensor_map.h"

#include <fmt/format.h>

#include <string>

namespace kiln::runtime {
namespace {

// The driver asks for 64-byte alignment; the type that cuda.h declares has 128 since CUDA 13.
static_assert(sizeof(device::TensorMap) == sizeof(CUtensorMap) && alignof(device::TensorMap) >= 64,
              "the kernels' parameter structs hold the driver's tensor maps as they are");

CUtensorMapSwizzle swizzle_of(std::uint32_t row_bytes) {
  switch (row_bytes) {
    case 128: return CU_TENSOR_MAP_SWIZZLE_128B;
    case 64: return CU_TENSOR_MAP_SWIZZLE_64B;
    case 32: return CU_TENSOR_MAP_SWIZZLE_32B;
    default: return CU_TENSOR_MAP_SWIZZLE_NONE;
  }
}

struct Format {
  CUtensorMapDataType type;
  std::uint32_t element_bytes;
  std::uint32_t box_cols;
  std::uint32_t box_rows;
  std::uint32_t box_slices;
  CUtensorMapSwizzle swizzle;
  CUtensorMapL2promotion promotion;
};

[[noreturn]] void refuse(const Driver& driver, const char* name, const MatrixView& view,
                         CUresult result) {
  const std::string slices =
      view.slices == 0 ? std::string()
                       : fmt::format("{} slices, {} apart, of ", view.slices, view.slice_stride);
  throw Error(
      Status::kInvalidArgument,
      fmt::format("{}: the driver accepts no tensor map for {}{} rows of {} elements, {} apart, at "
                  "{} (cuTensorMapEncodeTiled: {}): check the address and the strides",
                  name, slices, view.rows, view.cols, view.stride, view.address,
                  driver.error_text(result)));
}

void encode(const Driver& driver, const char* name, const MatrixView& view, const Format& format,
            device::TensorMap* map) {
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(view.cols),
                                static_cast<cuuint64_t>(view.rows),
                                static_cast<cuuint64_t>(view.slices)};
  const cuuint64_t strides_bytes[] = {
      static_cast<cuuint64_t>(view.stride) * format.element_bytes,
      static_cast<cuuint64_t>(view.slice_stride) * format.element_bytes};
  const cuuint32_t box[] = {format.box_cols, format.box_rows, format.box_slices};
  const cuuint32_t element_strides[] = {1, 1, 1};
  const CUresult result = driver.cuTensorMapEncodeTiled(
      reinterpret_cast<CUtensorMap*>(map), format.type, view.slices == 0 ? 2 : 3,
      const_cast<void*>(view.address), extents, strides_bytes, box, element_strides,
      CU_TENSOR_MAP_INTERLEAVE_NONE, format.swizzle, format.promotion,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) [[unlikely]]
    refuse(driver, name, view, result);
}

}  // namespace

void encode_fp8(const Driver& driver, const char* name, const MatrixView& view,
                std::uint32_t box_rows, std::uint32_t box_slices, device::TensorMap* map) {
  encode(driver, name, view,
         Format{CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, device::kBlockK, box_rows, box_slices,
                swizzle_of(device::kBlockK), CU_TENSOR_MAP_L2_PROMOTION_L2_256B},
         map);
}

void encode_output(const Driver& driver, const MatrixView& view, std::int64_t element_bytes,
                   std::uint32_t chunk_bytes, std::uint32_t box_rows, device::TensorMap* map) {
  const auto bytes = static_cast<std::uint32_t>(element_bytes);
  encode(driver, "d", view,
         Format{bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                bytes, chunk_bytes / bytes, box_rows, 1, swizzle_of(chunk_bytes),
                CU_TENSOR_MAP_L2_PROMOTION_NONE},
         map);
}

void encode_scales(const Driver& driver, const char* name, const MatrixView& view,
                   std::uint32_t box_cols, std::uint32_t box_rows, device::TensorMap* map) {
  encode(driver, name, view,
         Format{CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, box_cols, box_rows, 1,
                CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE},
         map);
}

}  // namespace kiln::runtime

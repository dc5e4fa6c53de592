// The rules that device operands obey, checked in each launch before anything is enqueued.
//
// Each function returns at once when the rule holds, without allocation; otherwise it throws
// Error{kInvalidArgument} with field, value, rule and remedy. No product can overflow.
#pragma once

#include <cstdint>

namespace kiln::runtime {

// A strided matrix of the caller: field names for the message, and what its layout asks of it.
struct StridedOperand {
  const char* name;         // field of the address
  const char* stride_name;  // field of the stride
  const void* address;
  std::int64_t stride;       // elements from one row to the next
  std::int64_t rows;         // at least 1
  std::int64_t cols;         // the least stride
  std::int64_t stride_unit;  // the stride is a multiple of this, a power of two
  std::int32_t alignment;    // bytes, a power of two
  std::int32_t element_bytes;
};
void check_operand(const StridedOperand& operand);

// `slices` such matrices, `given` elements apart: a multiple of the matrix's stride_unit, or 0 for
// rows x stride. `field` names that distance. Returns the distance in effect.
std::int64_t check_slices(const StridedOperand& slice, const char* field, std::int64_t given,
                          std::int64_t slices);

// Slices of an output that share elements would be written by several groups.
void check_disjoint(const StridedOperand& slice, const char* field, std::int64_t slice_stride,
                    std::int64_t slices);

// An array of int32 on the device.
void check_array(const char* name, const void* address, const char* what);

// low <= value <= high; `why` explains the bound.
void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high,
                 const char* why);
void check_multiple(const char* name, std::int64_t value, std::int64_t unit, const char* why);

}  // namespace kiln::runtime

#include "runtime/operand_check.h"

#include <fmt/format.h>

#include "jit/error.h"
#include "jit/problem.h"

namespace kiln::runtime {
namespace {

// A tensor map holds strides below 2^40 bytes.
constexpr std::int64_t kMaxStrideBytes = std::int64_t{1} << 40;

bool is_multiple(std::uintptr_t value, std::int64_t power_of_two) {
  return (value & static_cast<std::uintptr_t>(power_of_two - 1)) == 0;
}

// One past the last byte of the matrix that begins `elements_before` behind the address, unless
// that does not fit the address space.
bool end_fits(const StridedOperand& o, std::int64_t elements_before = 0) {
  std::int64_t elements = 0;
  std::int64_t bytes = 0;
  std::int64_t end = 0;
  return !__builtin_mul_overflow(o.rows - 1, o.stride, &elements) &&
         !__builtin_add_overflow(elements, o.cols, &elements) &&
         !__builtin_add_overflow(elements, elements_before, &elements) &&
         !__builtin_mul_overflow(elements, std::int64_t{o.element_bytes}, &bytes) &&
         !__builtin_add_overflow(reinterpret_cast<std::intptr_t>(o.address), bytes, &end);
}

}  // namespace

void check_operand(const StridedOperand& o) {
  if (o.address == nullptr) [[unlikely]] {
    refuse(fmt::format("{} must be a device pointer, got null: pass the address of the matrix",
                       o.name));
  }
  if (!is_multiple(reinterpret_cast<std::uintptr_t>(o.address), o.alignment)) [[unlikely]] {
    refuse(fmt::format(
        "{} must be aligned to {} bytes, got {}: cuMemAlloc aligns to 256; begin views of it at "
        "multiples of {}",
        o.name, o.alignment, o.address, o.alignment));
  }
  if (o.stride < o.cols) [[unlikely]] {
    refuse(fmt::format("{} must be at least {} (the length of one row of {}), got {}",
                       o.stride_name, o.cols, o.name, o.stride));
  }
  if (!is_multiple(static_cast<std::uintptr_t>(o.stride), o.stride_unit)) [[unlikely]] {
    refuse(fmt::format(
        "{} must be a multiple of {} (rows of {} begin at 16-byte boundaries), got {}: pad the "
        "rows to {}",
        o.stride_name, o.stride_unit, o.name, o.stride, jit::round_up(o.stride, o.stride_unit)));
  }
  if (o.stride >= kMaxStrideBytes / o.element_bytes) [[unlikely]] {
    refuse(fmt::format("{} must be below {} (a row stride is at most 2^40 bytes), got {}",
                       o.stride_name, kMaxStrideBytes / o.element_bytes, o.stride));
  }
  if (!end_fits(o)) [[unlikely]] {
    refuse(fmt::format(
        "{}: {} rows of {} elements, {} apart, at {} do not fit into the address space: check "
        "{} and the sizes",
        o.name, o.rows, o.cols, o.stride, o.address, o.stride_name));
  }
}

std::int64_t check_slices(const StridedOperand& o, const char* field, std::int64_t given,
                          std::int64_t slices) {
  check_operand(o);
  if (given < 0 || given % o.stride_unit != 0) [[unlikely]] {
    refuse(
        fmt::format("{} must be 0 (slices of {} without gaps) or a positive multiple of {}, got {}",
                    field, o.name, o.stride_unit, given));
  }
  std::int64_t distance = given;
  const bool overflows = given == 0 && __builtin_mul_overflow(o.rows, o.stride, &distance);
  if (overflows || distance >= kMaxStrideBytes / o.element_bytes) [[unlikely]] {
    refuse(fmt::format(
        "{} must be below {} (slices are less than 2^40 bytes apart), got {}{}", field,
        kMaxStrideBytes / o.element_bytes, given,
        given == 0 ? fmt::format(" for {} rows, {} apart", o.rows, o.stride) : std::string()));
  }
  std::int64_t last = 0;
  if (__builtin_mul_overflow(slices - 1, distance, &last) || !end_fits(o, last)) [[unlikely]] {
    refuse(fmt::format(
        "{}: {} slices, {} apart, of {} rows of {} elements at {} do not fit into the address "
        "space: check {} and the sizes",
        o.name, slices, distance, o.rows, o.cols, o.address, field));
  }
  return distance;
}

void check_disjoint(const StridedOperand& o, const char* field, std::int64_t slice_stride,
                    std::int64_t slices) {
  const std::int64_t slice_elements = (o.rows - 1) * o.stride + o.cols;
  if (slices == 1 || slice_stride >= slice_elements) [[likely]]
    return;
  // Or the rows of all slices take turns.
  if (slice_stride >= o.cols && (slices - 1) * slice_stride + o.cols <= o.stride) return;
  refuse(fmt::format(
      "{} must keep the {} slices of {} apart: at least {} for {} rows of {} elements, {} apart, "
      "got {}",
      field, slices, o.name, slice_elements, o.rows, o.cols, o.stride, slice_stride));
}

void check_array(const char* name, const void* address, const char* what) {
  if (address == nullptr) [[unlikely]] {
    refuse(fmt::format("{} must be a device pointer to {}, got null", name, what));
  }
  if (reinterpret_cast<std::uintptr_t>(address) % 4 != 0) [[unlikely]] {
    refuse(fmt::format("{} must be aligned to 4 bytes ({}), got {}", name, what, address));
  }
}

void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high,
                 const char* why) {
  if (value >= low && value <= high) [[likely]]
    return;
  refuse(fmt::format("{} must be in {}..{} ({}), got {}", name, low, high, why, value));
}

void check_multiple(const char* name, std::int64_t value, std::int64_t unit, const char* why) {
  if (value % unit == 0) [[likely]]
    return;
  refuse(fmt::format("{} must be a multiple of {} ({}), got {}: pad it to {}", name, unit, why,
                     value, jit::round_up(value, unit)));
}

}  // namespace kiln::runtime

// The struct_size and struct_version rules of kiln.h, once for every public struct.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "jit/error.h"

namespace kiln::runtime {

inline constexpr std::uint32_t kStructHeaderBytes = 8;  // struct_size and struct_version
inline constexpr std::uint32_t kStructVersion = 1;      // of every struct so far
inline constexpr std::uint32_t kMaxStructBytes =
    65536;  // nothing real comes near: garbage is refused

template <class T>
void check_header(const T* value, const char* name) {
  if (value == nullptr) {
    throw Error(Status::kInvalidArgument, fmt::format("{} must point to a struct, got null", name));
  }
  if (value->struct_size < kStructHeaderBytes || value->struct_size > kMaxStructBytes ||
      value->struct_size % 4 != 0) {
    throw Error(
        Status::kInvalidArgument,
        fmt::format("{}->struct_size must be the size of the struct ({} in this version), got {}: "
                    "initialise it with its KILN_*_INIT macro",
                    name, sizeof(T), value->struct_size));
  }
  if (value->struct_version == 0) {
    throw Error(Status::kInvalidArgument,
                fmt::format("{}->struct_version must be {}, got 0: initialise the struct with its "
                            "KILN_*_INIT macro",
                            name, kStructVersion));
  }
  if (value->struct_version > kStructVersion) {
    throw Error(Status::kUnsupported,
                fmt::format("{}->struct_version is {}, this library knows {}: use a newer library",
                            name, value->struct_version, kStructVersion));
  }
}

// The caller's struct if it is of this version's size, else `storage`: `defaults` overlaid with
// what the caller gave. Throws Error{kInvalidArgument, kUnsupported}.
template <class T>
const T& read_struct(const T* value, const char* name, const T& defaults, T* storage) {
  if (value != nullptr && value->struct_size == sizeof(T) &&
      value->struct_version == kStructVersion) [[likely]] {
    return *value;
  }
  check_header(value, name);
  const auto* bytes = reinterpret_cast<const char*>(value);
  for (std::size_t i = sizeof(T); i < value->struct_size; ++i) {
    if (bytes[i] == 0) continue;
    throw Error(
        Status::kUnsupported,
        fmt::format(
            "{} is {} bytes with a value behind the {} that this library knows: use a newer "
            "library, or leave the newer fields 0",
            name, value->struct_size, sizeof(T)));
  }
  *storage = defaults;
  std::memcpy(storage, bytes, std::min<std::size_t>(value->struct_size, sizeof(T)));
  return *storage;
}

// Zeroes the caller's struct behind its header, then lets `fill` write a complete T and copies as
// much of it as the caller has room for. When fill throws, the zeros stay.
template <class T, class Fill>
void write_struct(T* value, const char* name, Fill&& fill) {
  check_header(value, name);
  auto* const bytes = reinterpret_cast<char*>(value);
  std::memset(bytes + kStructHeaderBytes, 0, value->struct_size - kStructHeaderBytes);
  T complete{};
  fill(&complete);
  std::memcpy(bytes + kStructHeaderBytes,
              reinterpret_cast<const char*>(&complete) + kStructHeaderBytes,
              std::min<std::size_t>(value->struct_size, sizeof(T)) - kStructHeaderBytes);
}

// Copies as much as fits, always terminated.
template <std::size_t kSize>
void copy_text(std::string_view text, char (&to)[kSize]) {
  const std::size_t length = std::min(text.size(), kSize - 1);
  std::memcpy(to, text.data(), length);
  to[length] = '\0';
}

}  // namespace kiln::runtime

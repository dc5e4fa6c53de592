// The on-disk form of one compiled kernel: one file, self-describing, checksummed (format in
// entry.cc). Bytes in, bytes out; knows no GEMM, no CUDA and no file system.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "cache/digest.h"

namespace kiln::cache {

inline constexpr std::size_t kMaxEntryBytes = std::size_t{64} << 20;
inline constexpr std::size_t kHeaderBytes = 256;

struct Entry {
  Digest key{};
  Digest toolchain{};
  std::uint32_t sm = 90;               // target: 90 means sm_90a
  std::uint32_t compiler_version = 0;  // major << 16 | minor
  std::uint64_t created_unix_s = 0;    // informative

  // META: the canonical key text and what a launch needs, compared with the loaded kernel.
  std::string key_text;
  std::string description;  // one line for people
  std::string kernel_name;
  std::uint32_t threads = 0;
  std::uint32_t cluster = 1;
  std::uint64_t dynamic_smem_bytes = 0;
  std::uint32_t param_bytes = 0;
  std::uint32_t registers = 0;
  std::uint32_t spill_store_bytes = 0;
  std::uint32_t spill_load_bytes = 0;
  std::uint32_t stack_bytes = 0;
  std::uint32_t static_smem_bytes = 0;
  std::uint32_t compile_us = 0;

  std::vector<std::byte> cubin;
  std::string log;     // may be empty
  std::string source;  // may be empty

  bool operator==(const Entry&) const = default;
};

// Why bytes are not an acceptable entry. Each is counted by name in the cache's statistics.
enum class Defect : std::uint8_t {
  kTruncated,   // the size differs from the one written in the header, or is below the minimum
  kFormat,      // magic, version, header size, flags, reserved bytes or section table are wrong
  kChecksum,    // the SHA-256 does not match
  kKeyMismatch, // an intact entry, but of another key
  kToolchain,   // an intact entry, but of another toolchain than the key says
  kMeta,        // META cannot be read
};
std::string_view name(Defect defect);

// Deterministic: the same entry gives the same bytes.
std::vector<std::byte> encode(const Entry& entry);

// Reads header, then bounds, then checksum, and only then interprets. Never throws on any input
// (except std::bad_alloc) and never allocates more than the input's size, rounded up.
std::variant<Entry, Defect> decode(std::span<const std::byte> bytes);

}  // namespace kiln::cache

// The shared memory of one CTA, with what is known of each 4-byte word: which asynchronous write is
// on its way, how many asynchronous reads, which thread wrote it without a proxy fence since.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/sim/kernel_side/api.h"

namespace kiln::sim {

inline constexpr std::uint32_t kSharedBase = 1024;
inline constexpr std::uint32_t kLineBytes = 128;
inline constexpr std::uint8_t kUnfilled = 0xff;  // NaN in every format

// Where a 128-byte line came from, as the TMA load that wrote it knows.
struct Line {
  std::uint32_t load = 0;  // serial number of the load; 0: not from a box of 128-byte rows
  std::uint32_t row = 0;   // of the box
  std::uint8_t swizzle = 0;
};

class SharedMemory {
 public:
  void reset(std::uint32_t bytes);

  bool contains(std::uint32_t address, std::uint32_t bytes) const {
    return address >= kSharedBase && bytes <= size_ && address - kSharedBase <= size_ - bytes;
  }
  std::uint8_t* at(std::uint32_t address) { return data_ + (address - kSharedBase); }
  std::uint32_t size() const { return size_; }

  // By word, from an address inside.
  static std::uint32_t word(std::uint32_t address) { return (address - kSharedBase) / 4; }
  std::vector<std::uint32_t> filling;  // serial number of the asynchronous write, else 0
  std::vector<std::uint8_t> readers;   // asynchronous reads that were not done yet
  std::vector<std::uint16_t> dirty;    // 1 + thread that wrote it and did not fence, else 0
  std::vector<std::uint8_t> written;   // ever
  std::vector<std::uint8_t> barrier;   // an mbarrier lies there
  std::vector<Line> lines;

 private:
  std::vector<std::uint8_t> storage_;
  std::uint8_t* data_ = nullptr;
  std::uint32_t size_ = 0;
};

// The swizzle of shared addresses: 16-byte units are exchanged within the span.
inline std::uint32_t swizzled(std::uint32_t address, std::uint32_t span_bytes) {
  return span_bytes < 32 ? address : address ^ (address >> 7 & (span_bytes / 16 - 1)) << 4;
}

// Device memory, which is host memory. Every allocation is remembered, so that a copy that leaves
// its allocation is seen.
class GlobalMemory {
 public:
  void* allocate(std::size_t bytes);  // null when there is none
  bool release(const void* address);
  // Whether all of it lies in one allocation.
  bool contains(const void* address, std::size_t bytes) const;
  // The allocation around an address, or the nearest below, in words.
  std::string describe(const void* address) const;

 private:
  struct Allocation {
    const char* begin;
    std::size_t bytes, mapped;
  };
  const Allocation* find(const void* address) const;
  std::vector<Allocation> allocations_;  // ascending
};

}  // namespace kiln::sim

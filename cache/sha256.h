// Streaming SHA-256 (FIPS 180-4). Internal to cache/: users take sha256() of digest.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "cache/digest.h"

namespace kiln::cache {

using Sha256State = std::array<std::uint32_t, 8>;

// Folds `count` consecutive blocks of 64 bytes into the state.
using CompressFn = void (*)(Sha256State& state, const std::uint8_t* blocks, std::size_t count);

void compress_portable(Sha256State& state, const std::uint8_t* blocks, std::size_t count);

// The one that uses this CPU's SHA instructions, or nullptr where there are none.
CompressFn compress_accelerated();

// The faster of the two, chosen once per process.
CompressFn compress_best();

// Not thread-safe: one object, one thread.
class Sha256 {
 public:
  explicit Sha256(CompressFn compress = compress_best());
  void update(std::span<const std::byte> bytes);
  Digest finish();  // ends the object's use

 private:
  CompressFn compress_;
  Sha256State state_;
  std::array<std::uint8_t, 64> block_{};  // the bytes that do not fill a block yet
  std::size_t used_ = 0;
  std::uint64_t total_ = 0;
};

}  // namespace kiln::cache

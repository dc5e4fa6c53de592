// Random numbers of the scheduler: small, fast, the same on every machine.
#pragma once

#include <cstdint>

namespace kiln::sim {

class Random {
 public:
  explicit Random(std::uint64_t seed = 0) : state_(seed * 0x9e3779b97f4a7c15ull + 0x1234567) {
    next();
    next();
  }
  std::uint32_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<std::uint32_t>((state_ * 0x2545f4914f6cdd1dull) >> 32);
  }
  std::uint32_t below(std::uint32_t limit) {  // 0..limit - 1
    return static_cast<std::uint32_t>(std::uint64_t{next()} * limit >> 32);
  }

 private:
  std::uint64_t state_;
};

}  // namespace kiln::sim

// WGMMAs in flight. The 32 lanes of a warp issue an operation one by one; a warp's operations are
// done in order, at some time before a lane waits for them. Until then the registers hold
// kInFlight. (Each warp of a warpgroup computes its own 16 rows.)
#pragma once

#include "tools/sim/model.h"

namespace kiln::sim {

// Rows of a K-major operand in shared memory, as a matrix descriptor says. An instruction reads 32
// bytes of each row: two units of 16.
struct Operand {
  std::uint32_t start = 0;      // of the first row; the swizzle is not applied
  std::uint32_t stride = 0;     // of 8 rows
  std::uint32_t leading = 0;    // from one unit to the next, without a swizzle
  std::uint32_t span = 0;       // of the swizzle, and from row to row; 0: none, and rows of a unit
  std::uint32_t first_row = 0;  // of the warp
  std::uint32_t rows = 0;

  std::uint32_t line(std::uint32_t row) const {
    const std::uint32_t r = first_row + row;
    return start + r / 8 * stride + r % 8 * (span == 0 ? 16 : span);
  }
  std::uint32_t unit(std::uint32_t row, std::uint32_t index) const {
    return span == 0 ? line(row) + index * leading : swizzled(line(row) + index * 16, span);
  }
};

struct MmaOp : AsyncOp {
  MmaOp(Thread* issuer, const Where& where) : AsyncOp(OpKind::kMma, issuer, where) {}
  bool step() override { return false; }
  std::string describe() const override;
  bool reads(const Cta& cta, std::uint32_t address) const override;

  std::uint64_t a = 0, b = 0;
  MmaShape shape{};
  bool add = false;
  bool started = false;  // its reads are noted
  std::uint32_t joined = 0;
  std::uint64_t index = 0;       // among the warp's
  Operand operand_a, operand_b;  // a: no rows where registers hold them
  bool holds_a = false;
  std::uint32_t held_a[32][4] = {};  // by lane
  Accumulators* accumulators = nullptr;
};

void run_mma(Warp& warp);  // the oldest operation

// values[r][c] += sum over k of a[r][k] * b[k][c] for 16 rows, n columns and so many k. Rows of a
// are 32 apart.
void multiply_add(float* values, const float* a, const float* b, std::uint32_t n,
                  std::uint32_t k_count);
const float* fp8_table(bool is_e4m3);  // the values of all 256 codes

}  // namespace kiln::sim

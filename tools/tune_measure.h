// What the tuner asks of a GPU: run one tile at one M, check the result, say the times.
//
// Implementations are free to keep operands from call to call: the tuner asks for one problem after
// the other and, within it, for one M after the other. Calls come from one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "jit/problem.h"
#include "jit/tile.h"

namespace kiln::tools {

// Without a positive check the times mean nothing and are not looked at.
struct TileMeasurement {
  std::vector<double> times_us;  // of the kernel alone, one per repeat
  bool checked = false;          // the result was compared with the reference, and it is right
  double difference = 0;         // 1 - 2<x,y> / (<x,x> + <y,y>), of the check
  std::string error;             // not empty: it could not be compiled, launched or checked

  bool usable() const { return error.empty() && checked && !times_us.empty(); }
  bool operator==(const TileMeasurement&) const = default;
};

class Measurer {
 public:
  virtual ~Measurer() = default;

  // `tile` is legal for `problem`. What is wrong with the tile is in the measurement; what is wrong
  // with the machine (a lost device, no memory) throws Error.
  virtual TileMeasurement measure(const jit::Problem& problem, std::int64_t m,
                                  const jit::Tile& tile, int repeats) = 0;

  // A hint: these tiles will be measured next, probably in this order.
  virtual void expect(const jit::Problem& /*problem*/, const std::vector<jit::Tile>& /*tiles*/) {}
};

double median(std::vector<double> values);  // of at least one

}  // namespace kiln::tools

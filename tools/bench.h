// Runs one problem on the GPU: makes its operands, launches through the C API as a program would,
// checks the result against a plain kernel, and times it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/device_memory.h"
#include "tools/commands.h"

namespace kiln::tools {

struct BenchCase {
  std::string name;  // of the layer, or ""
  jit::Problem problem;
  std::int64_t m = 0;
  std::optional<jit::Tile> tile;
};

struct BenchOptions {
  int repeat = 30;
  bool check = false;
  std::uint64_t seed = 1;
};

// The most the GPU could do: what its clocks and widths allow. Sustained clocks are lower.
struct Peak {
  double tflops = 0;
  double gb_per_s = 0;
};

// How near the result is to a plain FP32/FP64 GEMM.
struct CheckResult {
  double difference = 0;  // 1 - 2<x,y> / (<x,x> + <y,y>): 0 is equal, whatever the scale
  double max_abs_error = 0;
  bool passed = false;
};

struct BenchResult {
  kiln_plan_description plan = KILN_PLAN_DESCRIPTION_INIT;
  double median_us = 0;
  double best_us = 0;
  double roofline_us = 0;  // the larger of flops / peak and bytes / peak
  double flops = 0;
  double bytes = 0;  // each operand once, D once (twice when accumulating)
  std::optional<CheckResult> check;

  double tflops() const { return median_us > 0 ? flops / median_us / 1e6 : 0; }
  double gb_per_s() const { return median_us > 0 ? bytes / median_us / 1e3 : 0; }
  double roofline_percent() const { return median_us > 0 ? 100 * roofline_us / median_us : 0; }
};

class Bench {
 public:
  // `engine` must have a device and outlive this.
  Bench(const EngineHandle& engine, const BenchOptions& options);

  const Peak& peak() const { return peak_; }

  // Throws Error: a problem that cannot be computed, memory that does not suffice, a driver error.
  BenchResult run(const BenchCase& c);

 private:
  struct Operands;

  void require_memory(const BenchCase& c) const;
  Operands make_operands(const BenchCase& c);
  void fill(const runtime::DeviceBuffer& buffer, std::uint64_t count, std::uint64_t seed);
  void quantize(const runtime::DeviceBuffer& in, std::int64_t rows, std::int64_t cols, int type,
                int granularity, int scale_major, const runtime::DeviceBuffer& out,
                const runtime::DeviceBuffer& scales, std::int64_t ld_scales);
  CheckResult compare(const BenchCase& c, const Operands& operands);
  void time(const kiln_plan* plan, const Operands& operands, BenchResult& result);

  const EngineHandle& handle_;
  runtime::Engine& engine_;
  const runtime::Device& device_;
  BenchOptions options_;
  Peak peak_;
  runtime::Stream stream_;
  runtime::DeviceBuffer flush_;
};

}  // namespace kiln::tools

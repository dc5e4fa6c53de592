// Runs one problem on the GPU: makes its operands, launches through the C API as a program would,
// checks the result against a plain kernel, and times it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/device_memory.h"
#include "tools/commands.h"
#include "tools/workload.h"

namespace kiln::tools {

struct BenchCase {
  std::string name;  // of the layer, or ""
  jit::Problem problem;
  Sizing sizing;
  std::optional<jit::Tile> tile;
};

struct BenchOptions {
  int repeat = 30;
  bool check = false;
  std::uint64_t seed = 1;  // of the operands; the groups' sizes have their own in Sizing
};

// The most the GPU could do: what its clocks and widths allow. Sustained clocks are lower.
struct Peak {
  double tflops = 0;
  double gb_per_s = 0;
};

// How near the result is to a plain FP32/FP64 GEMM, and whether anything else was written.
struct CheckResult {
  double difference = 0;  // 1 - 2<x,y> / (<x,x> + <y,y>): 0 is equal, whatever the scale
  double max_abs_error = 0;
  std::int64_t stray_rows = 0;  // of D that belong to no group and were written all the same
  bool passed = false;
};

struct BenchResult {
  Workload workload;
  kiln_plan_description plan = KILN_PLAN_DESCRIPTION_INIT;
  double median_us = 0;
  double best_us = 0;
  double roofline_us = 0;  // the larger of flops / peak and bytes / peak
  double flops = 0;
  double bytes = 0;
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
  struct Part;

  void require_memory(const Workload& w) const;
  Operands make_operands(const Workload& w);
  void fill_operands(const Workload& w, const Operands& operands);
  void fill(void* out, std::uint64_t count, std::uint64_t seed);
  void cast(const kiln_quantizer* quantizer, const runtime::DeviceBuffer& wide, const Part& part);
  CheckResult compare(const Workload& w, const Operands& operands);
  std::int64_t count_stray_rows(const Workload& w, const Operands& operands) const;
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

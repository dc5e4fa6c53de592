// Problems on the GPU: makes their operands, launches through the C API as a program would, checks
// results against a plain kernel, and times them. `kiln run` uses run(); who compares several
// versions takes a PreparedCase apart.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "runtime/device_memory.h"
#include "tools/commands.h"
#include "tools/measure.h"
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
  // For many checks of one case: keeps the first D that passed, which takes the memory of a D, and
  // compares later ones with it instead of computing the plain kernel's again.
  bool keep_result = false;
  // For a device that is no GPU: what is refused as too large (0: nothing), whether there are
  // times, and how often each case is checked, with a call before each launch.
  double most_flops = 0;
  bool has_times = true;
  int checks = 1;
  std::function<void(int)> before_check;
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

class Bench;

// One way to compute a case: the plan with its kernel for the case's M, loaded.
struct BenchPlan {
  kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
  // On the operands of the case, which must outlive it. Can be captured.
  Launch launch;
};

// A case with its operands on the GPU.
class PreparedCase {
 public:
  ~PreparedCase();
  const Workload& workload() const { return workload_; }
  const kiln_operands& operands() const;

  // A plan with the tile of the engine's choice, or with `tile`. Compiles, or takes from the cache.
  BenchPlan plan(const std::optional<jit::Tile>& tile) const;
  // Sets D back, launches once, and compares D with the plain kernel's, or with a D that passed
  // that comparison (BenchOptions::keep_result).
  CheckResult check(const Launch& launch) const;

  double flops() const { return flops_; }
  double bytes() const { return bytes_; }
  double roofline_us() const { return roofline_us_; }

 private:
  friend class Bench;
  struct Operands;
  PreparedCase(Bench& bench, const BenchCase& c);

  Bench& bench_;
  Workload workload_;
  std::unique_ptr<Operands> operands_;
  double flops_ = 0, bytes_ = 0, roofline_us_ = 0;
};

class Bench {
 public:
  // `engine` must have a device and outlive this.
  Bench(const EngineHandle& engine, const BenchOptions& options);

  const Peak& peak() const { return peak_; }

  // Throws Error: a problem that cannot be computed, memory that does not suffice, a driver error.
  BenchResult run(const BenchCase& c);

  // Makes the operands; throws as run() does. The case must not outlive this.
  std::unique_ptr<PreparedCase> prepare(const BenchCase& c);

 private:
  friend class PreparedCase;
  using Operands = PreparedCase::Operands;
  struct Part;

  void require_small(const Workload& w) const;
  void require_memory(const Workload& w) const;
  Operands make_operands(const Workload& w);
  void fill_operands(const Workload& w, const Operands& operands);
  void fill_d(const Workload& w, const runtime::DeviceBuffer& d);
  void fill(void* out, std::uint64_t count, std::uint64_t seed);
  void cast(const kiln_quantizer* quantizer, const runtime::DeviceBuffer& wide, const Part& part);
  CheckResult compare(const Workload& w, const Operands& operands);
  void keep(Operands& operands) const;
  std::int64_t count_stray_rows(const Workload& w, const Operands& operands) const;
  void time(const Launch& launch, BenchResult& result);

  const EngineHandle& handle_;
  runtime::Engine& engine_;
  const runtime::Device& device_;
  BenchOptions options_;
  Peak peak_;
  runtime::Stream stream_;
  runtime::DeviceBuffer flush_;
};

}  // namespace kiln::tools

// What became of the kernels of a `kiln warm`: printed as rows while it goes on, and summed up.
#pragma once

#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/loaded_kernel.h"
#include "tools/commands.h"
#include "tools/kernel_list.h"
#include "tools/progress.h"
#include "tools/table.h"
#include "tools/worker_protocol.h"

namespace kiln::tools {

// hit: was in the cache. missing: was not, and compiling is not allowed.
enum class WarmResult : std::size_t { kHit, kCompiled, kMissing, kFailed };
std::string_view name(WarmResult result);

struct KernelOutcome {
  WarmResult result = WarmResult::kFailed;
  runtime::KernelInfo info;  // of a hit or a compile
  std::string error;         // of the others
};
KernelOutcome found(runtime::KernelInfo info);
KernelOutcome failed(std::string error);
KernelOutcome from_reply(const WorkerReply& reply);

struct WarmSummary {
  std::size_t kernels = 0, hits = 0, compiled = 0, missing = 0, failed = 0, bad_problems = 0;
  double wall_ms = 0;
};
ExitCode exit_code(const WarmSummary& summary);
std::string summary_line(const WarmSummary& summary, const std::string& cache_dir);
nlohmann::ordered_json to_json(const WarmSummary& summary);

class WarmReport {
 public:
  // `kernels` must outlive this. With json = true no rows are printed.
  WarmReport(const std::vector<NeededKernel>& kernels, bool json);

  // Each kernel's end, once, in any order; prints its row, and a failure to stderr.
  void set(std::size_t index, KernelOutcome outcome);
  void tick() { progress_.draw(); }
  void finish() { progress_.clear(); }

  std::vector<std::size_t> unfinished() const;
  WarmSummary summary(std::size_t bad_problems, double wall_ms) const;
  nlohmann::ordered_json to_json(jit::Arch arch) const;  // all must have ended

 private:
  std::size_t count(WarmResult result) const { return counts_[static_cast<std::size_t>(result)]; }

  const std::vector<NeededKernel>& kernels_;
  std::vector<std::optional<KernelOutcome>> outcomes_;
  std::array<std::size_t, 4> counts_{};  // by WarmResult
  bool json_;
  Progress progress_;
  Table table_;
  std::vector<std::string> widest_;
};

}  // namespace kiln::tools

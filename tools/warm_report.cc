#include "tools/warm_report.h"

#include <fmt/format.h>

#include <cstdio>

#include "tools/text.h"

namespace kiln::tools {
namespace {

// What a kernel that is no GEMM is called: what it does.
std::string what_it_does(const NeededKernel& kernel) { return jit::describe({kernel.spec, {}}); }

std::string interval(const NeededKernel& kernel) {
  return human_interval(kernel.uses[0].m_min, kernel.uses[0].m_max);
}

std::string title(const NeededKernel& kernel) {
  if (!std::holds_alternative<jit::GemmSpec>(kernel.spec)) return what_it_does(kernel);
  return fmt::format("{} M {}", kernel.uses[0].problem, interval(kernel));
}

std::int64_t smem_bytes(const runtime::KernelInfo& info) {
  return info.launch.dynamic_smem_bytes + info.static_smem_bytes;
}

std::string k_cell(const jit::Problem& problem) {
  return problem.scaling == jit::Scaling::k1d1d ? "any" : fmt::to_string(problem.k);
}

// What is known of a kernel from the start.
std::vector<std::string> first_cells(const NeededKernel& kernel) {
  const auto* gemm = std::get_if<jit::GemmSpec>(&kernel.spec);
  if (gemm == nullptr) return {what_it_does(kernel), "-", "-", "-", "-"};
  const std::size_t more = kernel.uses.size() - 1;
  return {kernel.uses[0].problem + (more > 0 ? fmt::format(" (+{})", more) : ""),
          fmt::to_string(gemm->problem.n), k_cell(gemm->problem), interval(kernel),
          jit::describe(gemm->tile)};
}

std::vector<std::string> cells(const NeededKernel& kernel, const KernelOutcome& outcome) {
  std::vector<std::string> row = first_cells(kernel);
  if (outcome.error.empty()) {
    const runtime::KernelInfo& info = outcome.info;
    row.push_back(fmt::to_string(info.registers));
    row.push_back(human_bytes(static_cast<std::uint64_t>(smem_bytes(info))));
    row.push_back(fmt::format("{} B", info.spill_bytes));
    row.push_back(human_bytes(static_cast<std::uint64_t>(info.cubin_bytes)));
    row.push_back(fmt::format("{:.0f} ms", info.compile_ms));
  } else {
    row.resize(row.size() + 5, "-");
  }
  row.emplace_back(name(outcome.result));
  return row;
}

// Rows are printed as they come, so what is not known yet is given room for its widest.
std::vector<std::string> widest_cells(const std::vector<NeededKernel>& kernels) {
  std::vector<std::string> widest(5);
  for (const NeededKernel& kernel : kernels) {
    const std::vector<std::string> row = first_cells(kernel);
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (row[i].size() > widest[i].size()) widest[i] = row[i];
    }
  }
  for (const char* cell : {"255", "227.0 KiB", "1234 B", "123.4 KiB", "12345 ms", "compiled"}) {
    widest.emplace_back(cell);
  }
  return widest;
}

nlohmann::ordered_json kernel_json(const NeededKernel& kernel, const KernelOutcome& outcome,
                                   jit::Arch arch) {
  auto uses = nlohmann::ordered_json::array();
  for (const KernelUse& use : kernel.uses) {
    uses.push_back({{"name", use.problem}, {"m_min", use.m_min}, {"m_max", use.m_max}});
  }
  nlohmann::ordered_json problem, tile;  // null
  if (const auto* gemm = std::get_if<jit::GemmSpec>(&kernel.spec)) {
    problem = to_json(gemm->problem);
    tile = jit::describe(gemm->tile);
  }
  const runtime::KernelInfo& info = outcome.info;
  return {{"program", jit::describe(jit::KernelSpec{kernel.spec, arch})},
          {"key", info.key},
          {"problem", problem},
          {"tile", tile},
          {"uses", uses},
          {"result", name(outcome.result)},
          {"registers", info.registers},
          {"smem_bytes", smem_bytes(info)},
          {"spill_bytes", info.spill_bytes},
          {"cubin_bytes", info.cubin_bytes},
          {"compile_ms", info.compile_ms},
          {"error", outcome.error}};
}

}  // namespace

std::string_view name(WarmResult result) {
  constexpr std::array<std::string_view, 4> kNames = {"hit", "compiled", "missing", "failed"};
  return kNames[static_cast<std::size_t>(result)];
}

KernelOutcome found(runtime::KernelInfo info) {
  KernelOutcome outcome;
  outcome.result = info.from_disk ? WarmResult::kHit : WarmResult::kCompiled;
  outcome.info = std::move(info);
  return outcome;
}

KernelOutcome failed(std::string error) {
  KernelOutcome outcome;
  outcome.error = std::move(error);
  return outcome;
}

KernelOutcome from_reply(const WorkerReply& reply) {
  if (const auto* info = std::get_if<runtime::KernelInfo>(&reply)) return found(*info);
  const auto& failure = std::get<WorkerFailure>(reply);
  KernelOutcome outcome = failed(failure.message);
  if (failure.status == Status::kFrozen) outcome.result = WarmResult::kMissing;
  return outcome;
}

ExitCode exit_code(const WarmSummary& summary) {
  if (summary.failed > 0 || summary.bad_problems > 0) return kExitFailure;
  return summary.missing > 0 ? kExitMiss : kExitOk;
}

std::string summary_line(const WarmSummary& summary, const std::string& cache_dir) {
  std::string line = fmt::format("{} kernels: {} hits, {} compiled, {} failed", summary.kernels,
                                 summary.hits, summary.compiled, summary.failed);
  if (summary.missing > 0) {
    line += fmt::format(", {} missing (KILN_NO_COMPILE is set)", summary.missing);
  }
  if (summary.bad_problems > 0) line += fmt::format("; {} bad problems", summary.bad_problems);
  return line + fmt::format("; {:.2f} s; {}\n", summary.wall_ms / 1000, cache_dir);
}

nlohmann::ordered_json to_json(const WarmSummary& summary) {
  return {{"kernels", summary.kernels},   {"hits", summary.hits},
          {"compiled", summary.compiled}, {"missing", summary.missing},
          {"failed", summary.failed},     {"bad_problems", summary.bad_problems},
          {"wall_ms", summary.wall_ms}};
}

WarmReport::WarmReport(const std::vector<NeededKernel>& kernels, bool json)
    : kernels_(kernels),
      outcomes_(kernels.size()),
      json_(json),
      progress_(kernels.size()),
      table_({{"problem"},
              {"N", Align::kRight},
              {"K", Align::kRight},
              {"M"},
              {"tile"},
              {"regs", Align::kRight},
              {"smem", Align::kRight},
              {"spills", Align::kRight},
              {"cubin", Align::kRight},
              {"compile", Align::kRight},
              {"result"}}),
      widest_(widest_cells(kernels)) {
  if (!json_ && !kernels.empty()) print(table_.header(widest_));
}

void WarmReport::set(std::size_t index, KernelOutcome outcome) {
  const NeededKernel& kernel = kernels_[index];
  progress_.clear();
  if (!json_) print(table_.line(widest_, cells(kernel, outcome)));
  std::fflush(stdout);
  if (!outcome.error.empty()) {
    print_error(fmt::format("kiln warm: {}: {}\n", title(kernel), outcome.error));
  }
  ++counts_[static_cast<std::size_t>(outcome.result)];
  outcomes_[index] = std::move(outcome);
  progress_.advance(fmt::format("hits {}, compiled {}, failed {}", count(WarmResult::kHit),
                                count(WarmResult::kCompiled),
                                count(WarmResult::kFailed) + count(WarmResult::kMissing)));
}

std::vector<std::size_t> WarmReport::unfinished() const {
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < outcomes_.size(); ++i) {
    if (!outcomes_[i]) indices.push_back(i);
  }
  return indices;
}

WarmSummary WarmReport::summary(std::size_t bad_problems, double wall_ms) const {
  return {kernels_.size(),
          count(WarmResult::kHit),
          count(WarmResult::kCompiled),
          count(WarmResult::kMissing),
          count(WarmResult::kFailed),
          bad_problems,
          wall_ms};
}

nlohmann::ordered_json WarmReport::to_json(jit::Arch arch) const {
  auto list = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < kernels_.size(); ++i) {
    list.push_back(kernel_json(kernels_[i], *outcomes_[i], arch));
  }
  return list;
}

}  // namespace kiln::tools

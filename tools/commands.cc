#include "tools/commands.h"

#include <cstdio>

#include "runtime/handles.h"

namespace kiln::tools {

ExitCode exit_code(Status status) {
  switch (status) {
    case Status::kOk:
      return kExitOk;
    case Status::kInvalidArgument:
    case Status::kUnsupported:
      return kExitUsage;
    case Status::kNoDriver:
    case Status::kNoDevice:
      return kExitNoDevice;
    case Status::kFrozen:
      return kExitMiss;
    default:
      return kExitFailure;
  }
}

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void print_error(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

void print_json(const nlohmann::ordered_json& document) {
  // Bytes that are not UTF-8 (a path, say) must not turn the output into an error.
  print(document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n');
}

void check(kiln_status status) {
  if (status != KILN_OK) throw Error(static_cast<Status>(status), kiln_last_error());
}

EngineHandle::EngineHandle(const kiln_engine_options& options, const runtime::EngineHooks& hooks) {
  check(runtime::create_engine(&options, runtime::Environment::read(), hooks, handle_.out()));
}

kiln_engine_options offline_options(jit::Arch arch, std::int32_t num_sms) {
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.device = KILN_DEVICE_NONE;
  options.arch = arch.sm;
  options.num_sms = num_sms;
  return options;
}

static_assert(static_cast<int>(jit::Layout::kDense) == KILN_LAYOUT_DENSE &&
              static_cast<int>(jit::Layout::kGroupedContiguous) == KILN_LAYOUT_GROUPED_CONTIGUOUS &&
              static_cast<int>(jit::Layout::kGroupedMasked) == KILN_LAYOUT_GROUPED_MASKED &&
              static_cast<int>(jit::Layout::kGroupedK) == KILN_LAYOUT_GROUPED_K);
static_assert(static_cast<int>(jit::Scaling::k1d2d) == KILN_SCALING_1D2D &&
              static_cast<int>(jit::Scaling::k1d1d) == KILN_SCALING_1D1D);
static_assert(static_cast<int>(jit::GroupForm::kNone) == KILN_GROUPS_NONE &&
              static_cast<int>(jit::GroupForm::kLabels) == KILN_GROUPS_LABELS &&
              static_cast<int>(jit::GroupForm::kEnds) == KILN_GROUPS_ENDS &&
              static_cast<int>(jit::GroupForm::kRows) == KILN_GROUPS_ROWS &&
              static_cast<int>(jit::GroupForm::kPacked) == KILN_GROUPS_PACKED);

kiln_problem to_c(const jit::Problem& problem) {
  kiln_problem out = KILN_PROBLEM_INIT;
  out.layout = static_cast<std::int32_t>(problem.layout);
  out.scaling = static_cast<std::int32_t>(problem.scaling);
  out.n = problem.n;
  out.k = problem.k;
  out.a_type = problem.a == jit::Fp8Type::kE4m3 ? KILN_TYPE_E4M3 : KILN_TYPE_E5M2;
  out.b_type = problem.b == jit::Fp8Type::kE4m3 ? KILN_TYPE_E4M3 : KILN_TYPE_E5M2;
  out.d_type = problem.out == jit::OutputType::kBf16 ? KILN_TYPE_BF16 : KILN_TYPE_F32;
  out.sfa_major =
      problem.sfa_major == jit::ScaleMajor::kRow ? KILN_SCALE_ROW_MAJOR : KILN_SCALE_M_MAJOR;
  out.accumulate = problem.accumulate ? 1 : 0;
  out.group_form = static_cast<std::int32_t>(problem.group_form);
  out.groups = problem.groups;
  out.alignment = problem.alignment;
  out.batch_invariant = problem.batch_invariant ? 1 : 0;
  return out;
}

}  // namespace kiln::tools

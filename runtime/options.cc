#include "runtime/options.h"

#include <fmt/format.h>
#include <sys/auxv.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

namespace kiln::runtime {
namespace {

static_assert(kDeviceNone == KILN_DEVICE_NONE && kDeviceCurrent == KILN_DEVICE_CURRENT);
static_assert(static_cast<int>(MissPolicy::kBlock) == KILN_MISS_BLOCK &&
              static_cast<int>(MissPolicy::kNotReady) == KILN_MISS_NOT_READY &&
              static_cast<int>(MissPolicy::kFrozen) == KILN_MISS_FROZEN);
static_assert(static_cast<int>(LogLevel::kOff) == KILN_LOG_OFF &&
              static_cast<int>(LogLevel::kError) == KILN_LOG_ERROR &&
              static_cast<int>(LogLevel::kWarning) == KILN_LOG_WARNING &&
              static_cast<int>(LogLevel::kInfo) == KILN_LOG_INFO &&
              static_cast<int>(LogLevel::kDebug) == KILN_LOG_DEBUG);

constexpr std::array<std::pair<std::string_view, LogLevel>, 5> kLevelNames{
    {{"off", LogLevel::kOff},
     {"error", LogLevel::kError},
     {"warning", LogLevel::kWarning},
     {"info", LogLevel::kInfo},
     {"debug", LogLevel::kDebug}}};

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::optional<std::string>(value) : std::nullopt;
}

// A variable that is 1 or 0; unset and empty are 0.
bool is_set(const char* name, const std::optional<std::string>& value) {
  const std::string text = value.value_or("0");
  if (text == "1") return true;
  if (text == "0" || text.empty()) return false;
  throw Error(Status::kInvalidArgument, fmt::format("{} must be 1 or 0, got \"{}\"", name, text));
}

LogLevel resolve_log_level(std::int32_t field, const Environment& environment) {
  if (field < KILN_LOG_DEFAULT || field > KILN_LOG_DEBUG) {
    throw Error(Status::kInvalidArgument,
                fmt::format("log_level must be one of KILN_LOG_* (0 to {}), got {}",
                            +KILN_LOG_DEBUG, field));
  }
  if (field != KILN_LOG_DEFAULT) return static_cast<LogLevel>(field);
  if (!environment.log_level || environment.log_level->empty()) return LogLevel::kWarning;
  for (const auto& [name, level] : kLevelNames) {
    if (*environment.log_level == name) return level;
  }
  throw Error(
      Status::kInvalidArgument,
      fmt::format("KILN_LOG_LEVEL must be one of off, error, warning, info, debug, got \"{}\"",
                  *environment.log_level));
}

MissPolicy resolve_miss_policy(std::int32_t field, const Environment& environment) {
  if (field < KILN_MISS_DEFAULT || field > KILN_MISS_FROZEN) {
    throw Error(Status::kInvalidArgument,
                fmt::format("miss_policy must be one of KILN_MISS_* (0 to {}), got {}",
                            +KILN_MISS_FROZEN, field));
  }
  if (field != KILN_MISS_DEFAULT) return static_cast<MissPolicy>(field);
  return is_set("KILN_NO_COMPILE", environment.no_compile) ? MissPolicy::kFrozen
                                                           : MissPolicy::kBlock;
}

std::int32_t resolve_background_jobs(const kiln_engine_options& options) {
  if (options.background_jobs >= 0 && options.background_jobs <= kMaxBackgroundJobs)
    return options.background_jobs;
  throw Error(Status::kInvalidArgument,
              fmt::format("background_jobs must be 0 (none) to {} threads, got {}",
                          kMaxBackgroundJobs, options.background_jobs));
}

bool resolve_check_groups(std::int32_t field, const Environment& environment) {
  if (field < KILN_CHECK_DEFAULT || field > KILN_CHECK_ON) {
    throw Error(Status::kInvalidArgument,
                fmt::format("check_groups must be one of KILN_CHECK_* (0 to {}), got {}",
                            +KILN_CHECK_ON, field));
  }
  if (field != KILN_CHECK_DEFAULT) return field == KILN_CHECK_ON;
  return is_set("KILN_CHECK_GROUPS", environment.check_groups);
}

bool resolve_verify(std::int32_t field, const Environment& environment) {
  if (field < KILN_VERIFY_DEFAULT || field > KILN_VERIFY_ON) {
    throw Error(Status::kInvalidArgument,
                fmt::format("verify must be one of KILN_VERIFY_* (0 to {}), got {}",
                            +KILN_VERIFY_ON, field));
  }
  if (field != KILN_VERIFY_DEFAULT) return field == KILN_VERIFY_ON;
  return is_set("KILN_VERIFY", environment.verify);
}

std::vector<std::string> split_path(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t colon = std::min(text.find(':'), text.size());
    if (colon > 0) parts.emplace_back(text.substr(0, colon));
    text.remove_prefix(std::min(colon + 1, text.size()));
  }
  return parts;
}

void resolve_tuned(const char* field, const Environment& environment, EngineOptions* result) {
  const std::string text = field != nullptr ? field : environment.tuned.value_or("");
  result->builtin_tuned = text != "off";
  if (result->builtin_tuned) result->tuned_files = split_path(text);
}

// `arch` belongs to engines without a device; a device has its own.
jit::Arch resolve_arch(const kiln_engine_options& options) {
  if (options.device != KILN_DEVICE_NONE) {
    if (options.arch == 0 || options.arch == jit::Arch{}.sm) return {};
    throw Error(
        Status::kUnsupported,
        fmt::format("arch must be 0 or 90 for an engine with a device, got {}", options.arch));
  }
  if (options.arch == jit::Arch{}.sm) return {};
  throw Error(
      Status::kUnsupported,
      fmt::format("arch must be 90 (sm_90a, NVIDIA Hopper) for an engine without a device, got {}",
                  options.arch));
}

}  // namespace

Environment Environment::read() {
  if (getauxval(AT_SECURE) != 0) return {};
  return {variable("KILN_CACHE_DIR"),    variable("KILN_CACHE_PATH"), variable("KILN_LOG_LEVEL"),
          variable("KILN_NO_COMPILE"),   variable("KILN_NVRTC"),      variable("VIRTUAL_ENV"),
          variable("KILN_CHECK_GROUPS"), variable("KILN_TUNED"),      variable("KILN_VERIFY")};
}

jit::NvrtcSearch nvrtc_search(const char* explicit_path, const Environment& environment) {
  jit::NvrtcSearch search;
  search.explicit_path = explicit_path != nullptr ? explicit_path : environment.nvrtc.value_or("");
  if (environment.virtual_env && !environment.virtual_env->empty()) {
    search.venv_dirs.push_back(*environment.virtual_env);
  }
  search.venv_dirs.emplace_back(KILN_VENV_DIR);
  return search;
}

EngineOptions resolve(const kiln_engine_options& options, const Environment& environment) {
  EngineOptions result;
  result.device = options.device;
  result.arch = resolve_arch(options);
  result.num_sms = options.num_sms;
  result.miss_policy = resolve_miss_policy(options.miss_policy, environment);
  result.background_jobs = resolve_background_jobs(options);
  result.verify = resolve_verify(options.verify, environment);
  result.check_groups = resolve_check_groups(options.check_groups, environment);
  result.log.level = resolve_log_level(options.log_level, environment);
  result.log.callback = options.log_callback;
  result.log.user = options.log_user;
  if (options.cache_dir != nullptr) {
    result.cache_directory = options.cache_dir;
  } else {
    result.cache_directory =
        environment.cache_dir ? *environment.cache_dir : cache::default_directory();
  }
  result.cache_layers =
      split_path(options.cache_path != nullptr ? std::string(options.cache_path)
                                               : environment.cache_path.value_or(""));
  result.nvrtc = nvrtc_search(options.nvrtc_path, environment);
  resolve_tuned(options.tuned_path, environment, &result);
  return result;
}

}  // namespace kiln::runtime

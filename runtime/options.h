// From kiln_engine_options and the environment to EngineOptions: every default looked up, once.
#pragma once

#include <optional>
#include <string>

#include "runtime/engine.h"
#include "runtime/kiln.h"

namespace kiln::runtime {

// What Kiln reads from the environment. Each is also a field of kiln_engine_options, which wins.
struct Environment {
  std::optional<std::string> cache_dir;     // KILN_CACHE_DIR
  std::optional<std::string> cache_path;    // KILN_CACHE_PATH
  std::optional<std::string> log_level;     // KILN_LOG_LEVEL
  std::optional<std::string> no_compile;    // KILN_NO_COMPILE
  std::optional<std::string> nvrtc;         // KILN_NVRTC
  std::optional<std::string> virtual_env;   // VIRTUAL_ENV, the active Python environment
  std::optional<std::string> check_groups;  // KILN_CHECK_GROUPS
  std::optional<std::string> tuned;         // KILN_TUNED
  std::optional<std::string> verify;        // KILN_VERIFY

  // Empty in a process with elevated rights (AT_SECURE), whose environment is the attacker's.
  static Environment read();
};

// Where NVRTC is looked for; explicit_path wins over the environment.
jit::NvrtcSearch nvrtc_search(const char* explicit_path, const Environment& environment);

// Throws Error{kInvalidArgument} naming the field or the variable. `options` is complete: every
// byte of it is meant.
EngineOptions resolve(const kiln_engine_options& options, const Environment& environment);

}  // namespace kiln::runtime

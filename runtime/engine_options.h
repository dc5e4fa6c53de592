// What an engine is made with.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cache/disk_cache.h"
#include "jit/compiler.h"
#include "jit/source.h"
#include "runtime/driver.h"
#include "runtime/log.h"
#include "runtime/tuned_table.h"

namespace kiln::runtime {

inline constexpr int kDeviceNone = -1;     // KILN_DEVICE_NONE
inline constexpr int kDeviceCurrent = -2;  // KILN_DEVICE_CURRENT

enum class MissPolicy : std::int32_t { kBlock = 1, kNotReady = 2, kFrozen = 3 };  // KILN_MISS_*

// What stands in for the outside world in a test.
struct EngineHooks {
  std::string driver_library = kDriverLibrary;
  std::function<std::unique_ptr<jit::Compiler>(const jit::NvrtcSearch&)> open_compiler =
      jit::open_nvrtc;
  std::string_view tuned_text = builtin_tuned_text();
  const cache::Files* cache_files = nullptr;  // the disk cache's system calls; null: the real ones
};

// Every choice made: no default is left to be looked up.
struct EngineOptions {
  int device = kDeviceNone;
  jit::Arch arch;            // without a device; with one it is the device's
  std::int32_t num_sms = 0;  // without a device 1..1024; with one 0 (all) up to what it has
  MissPolicy miss_policy = MissPolicy::kBlock;
  std::int32_t background_jobs = 0;  // with kNotReady: threads that build what a launch missed
  bool verify = false;               // compile hits, too, and compare
  bool check_groups = false;  // before each launch of a grouped layout; it waits for the stream
  LogOptions log;
  std::string cache_directory;  // empty: no disk cache
  std::vector<std::string> cache_layers;
  jit::NvrtcSearch nvrtc;
  std::vector<std::string> tuned_files;  // in order of precedence
  bool builtin_tuned = true;             // the table that the library was built with, behind those
  EngineHooks hooks;
};

}  // namespace kiln::runtime

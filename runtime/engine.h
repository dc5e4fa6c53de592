// Engine: spec -> cubin -> loaded kernel, the central path. One engine is one device, or none.
//
// It knows no plan and no operand. Thread-safe; the environment is not read here.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "jit/source.h"
#include "jit/tile.h"
#include "runtime/background.h"
#include "runtime/cubin_source.h"
#include "runtime/driver.h"
#include "runtime/engine_options.h"
#include "runtime/loaded_kernel.h"
#include "runtime/log.h"
#include "runtime/once_map.h"
#include "runtime/tuned_table.h"

struct kiln_engine;

namespace kiln::runtime {

class Engine {
 public:
  // Throws Error{kNoDriver, kNoDevice, kUnsupported, kInvalidArgument, kDriverError}. A missing
  // compiler, an unusable cache directory and an unusable tuned file are no errors here.
  explicit Engine(EngineOptions options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The kernel, loaded; from memory, from disk, or compiled. One caller builds, others wait. `why`
  // goes into the log line. Throws Error{kNoDevice} without a device, kNoCompiler, kCompileFailed,
  // kFrozen, kDriverError. Never call it inside a stream capture of this thread.
  const LoadedKernel& kernel_for(const jit::KernelSpec& spec, std::string_view why = {});

  // What a launch does on a miss: the kernel if it is in memory, else what the miss policy says.
  // While `stream` is being captured it asks the driver nothing else and throws Error{kNotReady}.
  // With background jobs, a miss under kNotReady also queues the build; one that failed there
  // throws its own Error from then on, until kernel_for succeeds.
  const LoadedKernel& kernel_at_launch(const jit::KernelSpec& spec, CUstream stream,
                                       std::string_view why = {});

  // As kernel_for, but without a device it stops at the cubin: for warming.
  const KernelInfo& prepare(const jit::KernelSpec& spec, std::string_view why = {});

  // The cubin alone, as CubinSource has it.
  Cubin cubin_for(const jit::KernelSpec& spec, Lookup lookup = Lookup::kUse) {
    return source_.cubin_for(spec, lookup);
  }
  std::string key_for(const jit::KernelSpec& spec) { return source_.key_for(spec); }

  // From now on a miss is an error, whatever the policy was; builds that have begun are finished.
  // Cannot be undone.
  void freeze();

  // Throws Error{kCapturing} when the driver shows that a stream is being captured: the per-thread
  // stream, or any blocking stream of the context. Captures of other streams cannot be seen from
  // here; loading does not disturb them (see LoadedKernel::load).
  void refuse_in_capture(const char* what) const;

  // What is in memory already, else null: no I/O and no driver call.
  const LoadedKernel* find_loaded(const jit::KernelSpec& spec) const { return loaded_.find(spec); }
  const KernelInfo* find_prepared(const jit::KernelSpec& spec) const;

  bool has_device() const { return device_ != nullptr; }
  const Device& device() const;  // throws Error{kNoDevice}
  jit::Arch arch() const { return options_.arch; }
  jit::Machine machine() const { return jit::Machine{num_sms_}; }
  std::int32_t num_sms() const { return num_sms_; }
  MissPolicy miss_policy() const { return miss_policy_.load(std::memory_order_acquire); }
  bool check_groups() const { return options_.check_groups; }
  const TunedTables& tuned() const { return tuned_; }
  const Log& log() const { return log_; }

  cache::DiskCache& disk_cache() { return source_.disk_cache(); }
  const cache::DiskCache& disk_cache() const { return source_.disk_cache(); }
  // Since construction, as CubinSource counts; and driver loads, and requests that a loaded kernel
  // served.
  std::uint64_t hits() const { return source_.counters().hits; }
  std::uint64_t misses() const { return source_.counters().misses; }
  std::uint64_t compiles() const { return source_.counters().compiles; }
  std::uint64_t other_toolchain() const { return source_.counters().other_toolchain; }
  std::uint64_t verified() const { return source_.counters().verified; }
  std::uint64_t verify_mismatches() const { return source_.counters().verify_mismatches; }
  std::uint64_t loads() const { return loads_.load(std::memory_order_relaxed); }
  std::uint64_t memory_hits() const { return memory_hits_.load(std::memory_order_relaxed); }
  BackgroundBuilds::Counts background() const;

 private:
  Error not_ready(const jit::KernelSpec& spec, std::string_view why, bool is_capture);
  LoadedKernel build_loaded(const jit::KernelSpec& spec);
  KernelInfo build_cubin(const jit::KernelSpec& spec);
  void log_built(const jit::KernelSpec& spec, const KernelInfo& info, std::string_view why) const;

  EngineOptions options_;
  Log log_;
  std::unique_ptr<const Device> device_;  // null without a device
  std::int32_t num_sms_ = 0;
  std::atomic<MissPolicy> miss_policy_;
  TunedTables tuned_;  // those for num_sms_
  CubinSource source_;

  std::atomic<std::uint64_t> loads_{0};
  std::atomic<std::uint64_t> memory_hits_{0};
  OnceMap<jit::KernelSpec, LoadedKernel> loaded_;
  OnceMap<jit::KernelSpec, KernelInfo> compiled_;  // engines without a device
  std::unique_ptr<BackgroundBuilds> background_;   // last: its threads use the rest
};

// The engine behind a handle of the C API.
Engine& engine_of(kiln_engine* handle);

}  // namespace kiln::runtime

// Engine: spec -> cubin -> loaded kernel, the central path. One engine is one device, or none.
//
// It knows no plan and no operand. Thread-safe; the environment is not read here.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cache/disk_cache.h"
#include "jit/compiler.h"
#include "jit/source.h"
#include "jit/tile.h"
#include "runtime/background.h"
#include "runtime/driver.h"
#include "runtime/loaded_kernel.h"
#include "runtime/log.h"
#include "runtime/once_map.h"
#include "runtime/tuned_table.h"

struct kiln_engine;

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

struct Cubin {
  cache::Entry entry;
  bool from_disk = false;
  std::string miss_reason;  // when compiled: why the disk did not have it
};

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

  // Looks on disk, else compiles and publishes; several processes compile a key once between them
  // where the disk cache is usable. Touches no driver and no GPU, remembers nothing in memory.
  enum class Lookup { kUse, kSkip };
  Cubin cubin_for(const jit::KernelSpec& spec, Lookup lookup = Lookup::kUse);

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

  // Hex of the key that a compile now would publish under; without a compiler, of the newest
  // recorded toolchain; "" when there is neither.
  std::string key_for(const jit::KernelSpec& spec);

  bool has_device() const { return device_ != nullptr; }
  const Device& device() const;  // throws Error{kNoDevice}
  jit::Arch arch() const { return options_.arch; }
  jit::Machine machine() const { return jit::Machine{num_sms_}; }
  std::int32_t num_sms() const { return num_sms_; }
  MissPolicy miss_policy() const { return miss_policy_.load(std::memory_order_acquire); }
  bool check_groups() const { return options_.check_groups; }
  const TunedTables& tuned() const { return tuned_; }
  const Log& log() const { return log_; }

  cache::DiskCache& disk_cache() { return cache_; }
  const cache::DiskCache& disk_cache() const { return cache_; }
  // Since construction: kernels found on disk, kernels not found there, NVRTC runs, driver loads.
  std::uint64_t hits() const { return hits_.load(std::memory_order_relaxed); }
  std::uint64_t misses() const { return misses_.load(std::memory_order_relaxed); }
  std::uint64_t compiles() const { return compiles_.load(std::memory_order_relaxed); }
  std::uint64_t loads() const { return loads_.load(std::memory_order_relaxed); }
  // Requests that a loaded kernel served, and compiles although another toolchain's kernel is
  // there.
  std::uint64_t memory_hits() const { return memory_hits_.load(std::memory_order_relaxed); }
  std::uint64_t other_toolchain() const { return other_toolchain_.load(std::memory_order_relaxed); }
  BackgroundBuilds::Counts background() const;
  // Hits that were compiled again, and those of them that were not what their key compiles to.
  std::uint64_t verified() const { return verified_.load(std::memory_order_relaxed); }
  std::uint64_t verify_mismatches() const {
    return verify_mismatches_.load(std::memory_order_relaxed);
  }

 private:
  struct Key {
    cache::Digest digest;
    cache::Digest toolchain;
    std::string text;
  };

  jit::Compiler* compiler();              // null when there is none; no_compiler_ then says why
  std::vector<std::string> toolchains();  // whose cubins are acceptable now, best first
  Key key_of(const jit::Source& source, const std::string& toolchain) const;
  std::optional<Cubin> find_on_disk(const jit::Source& source, std::string* why);
  std::optional<Cubin> find_on_disk(const jit::Source& source, const Key& key,
                                    std::string* why = nullptr);
  bool is_there_of_other_toolchain(const jit::Source& source);
  Error not_ready(const jit::KernelSpec& spec, std::string_view why, bool is_capture);
  cache::Entry compile(const jit::KernelSpec& spec, const jit::Source& source, Key key);
  Cubin verify(const jit::KernelSpec& spec, const jit::Source& source, Cubin hit);
  [[noreturn]] void fail_miss(const jit::KernelSpec& spec, const jit::Source& source);
  LoadedKernel build_loaded(const jit::KernelSpec& spec);
  KernelInfo build_cubin(const jit::KernelSpec& spec);
  void log_built(const jit::KernelSpec& spec, const KernelInfo& info, std::string_view why) const;

  EngineOptions options_;
  Log log_;
  std::unique_ptr<const Device> device_;  // null without a device
  std::int32_t num_sms_ = 0;
  std::atomic<MissPolicy> miss_policy_;
  TunedTables tuned_;  // those for num_sms_
  cache::DiskCache cache_;
  std::string templates_digest_;

  std::once_flag compiler_opened_;  // NVRTC is opened when the first key is needed
  std::unique_ptr<jit::Compiler> compiler_;
  std::string toolchain_;  // identity of compiler_ with its options
  std::unique_ptr<Error> no_compiler_;

  std::atomic<std::uint64_t> hits_{0};
  std::atomic<std::uint64_t> misses_{0};
  std::atomic<std::uint64_t> compiles_{0};
  std::atomic<std::uint64_t> loads_{0};
  std::atomic<std::uint64_t> memory_hits_{0};
  std::atomic<std::uint64_t> other_toolchain_{0};
  std::atomic<std::uint64_t> verified_{0};
  std::atomic<std::uint64_t> verify_mismatches_{0};
  OnceMap<jit::KernelSpec, LoadedKernel> loaded_;
  OnceMap<jit::KernelSpec, KernelInfo> compiled_;  // engines without a device
  std::unique_ptr<BackgroundBuilds> background_;   // last: its threads use the rest
};

// Digest of the embedded kernel templates, in hex; part of every key.
std::string templates_digest(std::span<const jit::TemplateFile> files = jit::template_files());

// The engine behind a handle of the C API.
Engine& engine_of(kiln_engine* handle);

}  // namespace kiln::runtime

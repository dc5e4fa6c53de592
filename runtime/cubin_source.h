// CubinSource: spec -> cubin, from disk or compiled. It touches no driver and no GPU, and remembers
// nothing in memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine_options.h"

namespace kiln::runtime {

struct Cubin {
  cache::Entry entry;
  bool from_disk = false;
  std::string miss_reason;  // when compiled: why the disk did not have it
};

enum class Lookup { kUse, kSkip };  // the disk

// Thread-safe. Lives as long as the options, the log and the policy that it is made with.
class CubinSource {
 public:
  CubinSource(const EngineOptions& options, const Log& log,
              const std::atomic<MissPolicy>& miss_policy);

  // Looks on disk, else compiles and publishes; several processes compile a key once between them
  // where the disk cache is usable. Throws Error{kNoCompiler, kCompileFailed, kFrozen}.
  Cubin cubin_for(const jit::KernelSpec& spec, Lookup lookup = Lookup::kUse);

  // Hex of the key that a compile now would publish under; without a compiler, of the newest
  // recorded toolchain; "" when there is neither.
  std::string key_for(const jit::KernelSpec& spec);

  cache::DiskCache& disk_cache() { return cache_; }
  const cache::DiskCache& disk_cache() const { return cache_; }

  // Since construction: kernels found on disk, kernels not found there, NVRTC runs; compiles
  // although another toolchain's kernel is there; hits that were compiled again, and those of them
  // that were not what their key compiles to.
  struct Counters {
    std::atomic<std::uint64_t> hits{0}, misses{0}, compiles{0}, other_toolchain{0};
    std::atomic<std::uint64_t> verified{0}, verify_mismatches{0};
  };
  const Counters& counters() const { return counters_; }

 private:
  struct Key {
    cache::Digest digest;
    cache::Digest toolchain;
    std::string text;
  };

  bool is_frozen() const {
    return miss_policy_.load(std::memory_order_acquire) == MissPolicy::kFrozen;
  }
  jit::Compiler* compiler();              // null when there is none; no_compiler_ then says why
  std::vector<std::string> toolchains();  // whose cubins are acceptable now, best first
  Key key_of(const jit::Source& source, const std::string& toolchain) const;
  std::optional<Cubin> find_on_disk(const jit::Source& source, std::string* why);
  std::optional<Cubin> find_on_disk(const jit::Source& source, const Key& key,
                                    std::string* why = nullptr);
  bool is_there_of_other_toolchain(const jit::Source& source);
  cache::Entry compile(const jit::KernelSpec& spec, const jit::Source& source, Key key);
  Cubin verify(const jit::KernelSpec& spec, const jit::Source& source, Cubin hit);
  [[noreturn]] void fail_miss(const jit::KernelSpec& spec, const jit::Source& source);

  const EngineOptions& options_;
  const Log& log_;
  const std::atomic<MissPolicy>& miss_policy_;
  cache::DiskCache cache_;
  std::string templates_digest_;

  std::once_flag compiler_opened_;  // NVRTC is opened when the first key is needed
  std::unique_ptr<jit::Compiler> compiler_;
  std::string toolchain_;  // identity of compiler_ with its options
  std::unique_ptr<Error> no_compiler_;

  Counters counters_;
};

// Digest of the embedded kernel templates, in hex; part of every key.
std::string templates_digest(std::span<const jit::TemplateFile> files = jit::template_files());

}  // namespace kiln::runtime

#include "runtime/cubin_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <utility>

#include "cache/files.h"
#include "cache/left_out.h"
#include "runtime/loaded_kernel.h"
#include "runtime/verify.h"

namespace kiln::runtime {
namespace {

// Several times what the slowest tile takes to compile on a loaded machine. It bounds how long a
// stopped process that holds the lock can delay this one, which then compiles for itself.
constexpr std::uint32_t kLockTimeoutMs = 20'000;

constexpr std::string_view kAbsentWords = "it is absent";  // as DiskCache::lookup says it

constexpr std::string_view kKeySchema = "kiln-kernel-1";

// A compiler with its options, in one line. It is recorded beside the cache, so that a machine
// without a compiler can form the same keys.
std::string toolchain_text(const jit::Compiler& compiler, jit::Arch arch) {
  std::string text = compiler.fingerprint();
  for (const std::string& option : compiler.options(arch)) text += fmt::format(" [{}]", option);
  return text;
}

// The first "major.minor" of a fingerprint, informative only.
std::uint32_t version_of(std::string_view fingerprint) {
  const std::size_t digit = std::min(fingerprint.find_first_of("0123456789"), fingerprint.size());
  const char* const end = fingerprint.data() + fingerprint.size();
  std::uint16_t major = 0;
  std::uint16_t minor = 0;
  const auto parsed = std::from_chars(fingerprint.data() + digit, end, major);
  if (parsed.ptr != end && *parsed.ptr == '.') std::from_chars(parsed.ptr + 1, end, minor);
  return std::uint32_t{major} << 16 | minor;
}

bool launches_as(const cache::Entry& entry, const jit::Source& source) {
  return entry.kernel_name == source.entry && describe_entry(entry, true).launch == source.launch;
}

cache::Options cache_options(const EngineOptions& options, const Log& log) {
  cache::Options result;
  result.directory = options.cache_directory;
  result.layers = options.cache_layers;
  result.warn = [&log](const std::string& message) { log.write(LogLevel::kWarning, message); };
  return result;
}

}  // namespace

std::string templates_digest(std::span<const jit::TemplateFile> files) {
  cache::KeyBuilder builder("kiln-templates-1");
  for (const jit::TemplateFile& file : files) builder.add(file.name, file.text);
  return cache::to_hex(builder.digest());
}

CubinSource::CubinSource(const EngineOptions& options, const Log& log,
                         const std::atomic<MissPolicy>& miss_policy)
    : options_(options),
      log_(log),
      miss_policy_(miss_policy),
      cache_(cache_options(options, log), options.hooks.cache_files != nullptr
                                              ? *options.hooks.cache_files
                                              : cache::real_files()),
      templates_digest_(templates_digest()) {}

Cubin CubinSource::cubin_for(const jit::KernelSpec& spec, Lookup lookup) {
  const jit::Source source = jit::render(spec);
  std::string why = "the driver refused the copy on disk";
  if (lookup == Lookup::kUse) {
    if (std::optional<Cubin> hit = find_on_disk(source, &why))
      return verify(spec, source, std::move(*hit));
  }
  counters_.misses.fetch_add(1, std::memory_order_relaxed);
  if (is_frozen() || compiler() == nullptr) fail_miss(spec, source);

  const Key key = key_of(source, toolchain_);
  const cache::KeyLock lock = cache_.lock(key.digest, kLockTimeoutMs);
  constexpr bool kRecheck = cache::kLeftOut != cache::Protection::no_recheck;
  if (kRecheck && lock.held() && lookup == Lookup::kUse) {  // its last holder may have compiled it
    if (std::optional<Cubin> hit = find_on_disk(source, key))
      return verify(spec, source, std::move(*hit));
  }
  Cubin built{compile(spec, source, key), false, std::move(why)};
  if (cache_.publish(built.entry)) cache_.record_toolchain(toolchain_);
  if (cache::kLeftOut == cache::Protection::reread_after_publish) {
    built.entry = cache_.lookup(key.digest, key.toolchain).value();
  }
  return built;
}

// ---- keys and the disk ----

CubinSource::Key CubinSource::key_of(const jit::Source& source,
                                     const std::string& toolchain) const {
  cache::KeyBuilder builder(kKeySchema);
  builder.add("templates", templates_digest_)
      .add("arch", jit::name(source.arch))
      .add("entry", source.entry)
      .add("toolchain", toolchain)
      .add("program", cache::to_hex(cache::sha256(source.text)));
  for (const auto& [name, value] : source.constants) builder.add(name, value);
  return {builder.digest(), cache::sha256(toolchain), builder.text()};
}

jit::Compiler* CubinSource::compiler() {
  std::call_once(compiler_opened_, [&] {
    try {
      std::unique_ptr<jit::Compiler> opened = options_.hooks.open_compiler(options_.nvrtc);
      toolchain_ = toolchain_text(*opened, options_.arch);
      compiler_ = std::move(opened);
    } catch (const Error& error) {
      no_compiler_ = std::make_unique<Error>(error);
      log_.write(LogLevel::kInfo,
                 fmt::format("no compiler, only cached kernels: {}", error.what()));
    }
  });
  return compiler_.get();
}

std::vector<std::string> CubinSource::toolchains() {
  std::vector<std::string> result;
  const bool can_compile = compiler() != nullptr;
  if (can_compile) result.push_back(toolchain_);
  if (can_compile && !is_frozen()) return result;
  // What cannot be compiled here may have been compiled elsewhere, with another NVRTC.
  for (std::string& recorded : cache_.recorded_toolchains()) {
    if (recorded != toolchain_) result.push_back(std::move(recorded));
  }
  return result;
}

std::optional<Cubin> CubinSource::find_on_disk(const jit::Source& source, std::string* why) {
  bool is_absent = true;
  *why = "no toolchain is known";
  for (const std::string& toolchain : toolchains()) {
    std::string reason;
    std::optional<Cubin> hit = find_on_disk(source, key_of(source, toolchain), &reason);
    if (hit) return hit;
    if (is_absent) *why = reason;  // of the best toolchain whose entry is there and no good
    is_absent = is_absent && reason == kAbsentWords;
  }
  using cache::DirectoryState;
  const DirectoryState state = cache_.state();
  const bool no_directory = state != DirectoryState::kUsable && state != DirectoryState::kReadOnly;
  if (is_absent && no_directory) *why = fmt::format("the cache directory is {}", name(state));
  if (is_absent && is_there_of_other_toolchain(source)) {
    counters_.other_toolchain.fetch_add(1, std::memory_order_relaxed);
    *why = "only another toolchain's is there";
  }
  return std::nullopt;
}

// Only asked before a compile, which takes a thousand times longer.
bool CubinSource::is_there_of_other_toolchain(const jit::Source& source) {
  if (is_frozen() || compiler() == nullptr) return false;  // looked up
  const std::vector<std::string> known = cache_.recorded_toolchains();
  return std::any_of(known.begin(), known.end(), [&](const std::string& toolchain) {
    return toolchain != toolchain_ && cache_.has_file(key_of(source, toolchain).digest);
  });
}

std::optional<Cubin> CubinSource::find_on_disk(const jit::Source& source, const Key& key,
                                               std::string* why) {
  std::string_view reason;
  std::optional<cache::Entry> entry = cache_.lookup(key.digest, key.toolchain, &reason);
  if (why != nullptr) *why = entry ? "it holds another kernel" : reason;
  if (!entry) return std::nullopt;
  if (!launches_as(*entry, source)) {
    log_.write(LogLevel::kWarning,
               fmt::format("cache entry {} holds another kernel than {}; it is set aside",
                           cache::to_hex(key.digest), source.entry));
    cache_.reject(key.digest);
    return std::nullopt;
  }
  counters_.hits.fetch_add(1, std::memory_order_relaxed);
  return Cubin{std::move(*entry), true, ""};
}

cache::Entry CubinSource::compile(const jit::KernelSpec& spec, const jit::Source& source, Key key) {
  counters_.compiles.fetch_add(1, std::memory_order_relaxed);
  jit::CompiledKernel compiled = compiler_->compile(source);
  cache::Entry entry;
  entry.key = key.digest;
  entry.toolchain = key.toolchain;
  entry.sm = static_cast<std::uint32_t>(source.arch.sm);
  entry.compiler_version = version_of(compiler_->fingerprint());
  entry.created_unix_s = static_cast<std::uint64_t>(std::time(nullptr));
  entry.key_text = std::move(key.text);
  entry.description = jit::describe(spec);
  entry.kernel_name = source.entry;
  entry.threads = static_cast<std::uint32_t>(source.launch.threads);
  entry.cluster = static_cast<std::uint32_t>(source.launch.cluster);
  entry.dynamic_smem_bytes = static_cast<std::uint64_t>(source.launch.dynamic_smem_bytes);
  entry.param_bytes = static_cast<std::uint32_t>(source.launch.param_bytes);
  entry.registers = static_cast<std::uint32_t>(compiled.resources.registers);
  entry.spill_store_bytes = static_cast<std::uint32_t>(compiled.resources.spill_store_bytes);
  entry.spill_load_bytes = static_cast<std::uint32_t>(compiled.resources.spill_load_bytes);
  entry.stack_bytes = static_cast<std::uint32_t>(compiled.resources.stack_bytes);
  entry.static_smem_bytes = static_cast<std::uint32_t>(compiled.resources.static_smem_bytes);
  entry.compile_us = static_cast<std::uint32_t>(compiled.compile_ms * 1e3);
  entry.cubin = std::move(compiled.cubin);
  entry.log = std::move(compiled.log);
  entry.source = source.text;
  return entry;
}

// A compile that fails says nothing about the hit.
Cubin CubinSource::verify(const jit::KernelSpec& spec, const jit::Source& source, Cubin hit) {
  if (!options_.verify || is_frozen() || compiler() == nullptr) return hit;
  Cubin built;
  try {
    built = {compile(spec, source, key_of(source, toolchain_)), false,
             "the copy on disk is not what the key compiles to"};
  } catch (const Error& error) {
    log_.write(LogLevel::kWarning,
               fmt::format("cache entry {} could not be verified and is used: {}",
                           cache::to_hex(hit.entry.key), error.what()));
    return hit;
  }
  counters_.verified.fetch_add(1, std::memory_order_relaxed);
  const std::string mismatch = describe_mismatch(hit.entry, built.entry);
  if (mismatch.empty()) return hit;
  counters_.verify_mismatches.fetch_add(1, std::memory_order_relaxed);
  log_.write(LogLevel::kWarning, mismatch);
  cache_.reject(hit.entry.key);
  if (cache_.publish(built.entry)) cache_.record_toolchain(toolchain_);
  return built;
}

void CubinSource::fail_miss(const jit::KernelSpec& spec, const jit::Source& source) {
  const std::vector<std::string> known = toolchains();
  const std::string key = known.empty() ? "" : cache::to_hex(key_of(source, known.front()).digest);
  const std::string what =
      fmt::format("the kernel of {} is not in the cache ({})", jit::describe(spec),
                  key.empty() ? "it has no key here: there is no NVRTC and the cache records none"
                              : "key " + key);
  if (is_frozen()) {
    const bool is_gemm = std::holds_alternative<jit::GemmSpec>(spec.kernel);
    throw Error(
        Status::kFrozen,
        fmt::format("{}, and compiling is not allowed (KILN_MISS_FROZEN, KILN_NO_COMPILE or "
                    "kiln_engine_freeze): fill the cache with `{}` or `kiln cache import`, or "
                    "allow it",
                    what, is_gemm ? "kiln warm" : "kiln warm --casts"));
  }
  throw Error(no_compiler_->status(), what + ", and cannot be compiled: " + no_compiler_->what());
}

std::string CubinSource::key_for(const jit::KernelSpec& spec) {
  const std::vector<std::string> known = toolchains();
  return known.empty() ? std::string()
                       : cache::to_hex(key_of(jit::render(spec), known.front()).digest);
}

}  // namespace kiln::runtime

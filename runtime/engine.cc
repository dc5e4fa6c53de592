#include "runtime/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <system_error>
#include <utility>

#include "cache/files.h"
#include "cache/left_out.h"
#include "runtime/strict_json.h"
#include "runtime/text.h"
#include "runtime/verify.h"

namespace kiln::runtime {
namespace {

// Several times what the slowest tile takes to compile on a loaded machine. It bounds how long a
// stopped process that holds the lock can delay this one, which then compiles for itself.
constexpr std::uint32_t kLockTimeoutMs = 20'000;

constexpr std::string_view kAbsentWords = "it is absent";  // as DiskCache::lookup says it

constexpr std::string_view kKeySchema = "kiln-kernel-1";
constexpr std::int32_t kMaxNumSms = 1024;

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

double ms_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}

std::unique_ptr<const Device> open_device(const EngineOptions& options) {
  if (options.device == kDeviceNone) {
    jit::parse_arch(jit::name(options.arch), "arch");
    return nullptr;
  }
  if (options.device < 0 && options.device != kDeviceCurrent) {
    throw Error(
        Status::kInvalidArgument,
        fmt::format("device must be an ordinal >= 0, KILN_DEVICE_NONE (-1) or KILN_DEVICE_CURRENT "
                    "(-2), got {}",
                    options.device));
  }
  std::shared_ptr<const Driver> driver = Driver::open(options.hooks.driver_library);
  return options.device == kDeviceCurrent ? Device::current(std::move(driver))
                                          : Device::open(std::move(driver), options.device);
}

std::int32_t choose_num_sms(const EngineOptions& options, const Device* device) {
  if (device == nullptr) {
    if (options.num_sms >= 1 && options.num_sms <= kMaxNumSms) return options.num_sms;
    throw Error(
        Status::kInvalidArgument,
        fmt::format("num_sms must be in 1..{} for an engine without a device, got {}: give the SM "
                    "count of the GPU that will run the kernels, e.g. 132 for an H100 SXM or H200",
                    kMaxNumSms, options.num_sms));
  }
  const int available = device->info().num_sms;
  if (options.num_sms >= 0 && options.num_sms <= available) {
    return options.num_sms == 0 ? available : options.num_sms;
  }
  throw Error(Status::kInvalidArgument,
              fmt::format("num_sms must be 0 (all) or at most the {} SMs of device {} ({}), got {}",
                          available, device->info().ordinal, device->info().name, options.num_sms));
}

cache::Options cache_options(const EngineOptions& options, const Log& log) {
  cache::Options result;
  result.directory = options.cache_directory;
  result.layers = options.cache_layers;
  result.warn = [&log](const std::string& message) { log.write(LogLevel::kWarning, message); };
  return result;
}

TunedTable read_tuned(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored))  // opening a pipe could wait for ever
    throw Error(Status::kInvalidArgument, fmt::format("{}: is not a regular file", path));
  return TunedTable::load(read_file(path), path);
}

// At most one warning for each file; what is wrong with one stops no other.
TunedTables load_tuned(const EngineOptions& options, std::int32_t num_sms, const Log& log) {
  TunedTables tables;
  const auto warn = [&](const std::string& message) {
    log.write(LogLevel::kWarning, fmt::format("tuned tiles: {}", message));
  };
  for (const std::string& path : options.tuned_files) {
    try {
      TunedTable table = read_tuned(path);
      if (table.file().num_sms != num_sms) {
        warn(fmt::format("{} is for {} with {} SMs, and this engine has {}: the file is ignored",
                         path, quote(table.file().gpu), table.file().num_sms, num_sms));
        continue;
      }
      if (table.num_rejected() > 0)
        warn(fmt::format("{} of the {} entries are ignored; the first: {}", table.num_rejected(),
                         table.num_rejected() + table.file().entries.size(),
                         table.first_rejection()));
      tables.add(std::move(table));
    } catch (const Error& error) {
      warn(fmt::format("{}: the file is ignored", error.what()));
    }
  }
  if (!options.builtin_tuned) return tables;
  // It is checked by the tests, so it is whole; another GPU than its own is nothing to warn about.
  TunedTable builtin = TunedTable::load(options.hooks.tuned_text, std::string(kBuiltinTunedSource));
  if (builtin.file().num_sms == num_sms) tables.add(std::move(builtin));
  return tables;
}

}  // namespace

std::string templates_digest(std::span<const jit::TemplateFile> files) {
  cache::KeyBuilder builder("kiln-templates-1");
  for (const jit::TemplateFile& file : files) builder.add(file.name, file.text);
  return cache::to_hex(builder.digest());
}

Engine::Engine(EngineOptions options)
    : options_(std::move(options)),
      log_(options_.log),
      device_(open_device(options_)),
      num_sms_(choose_num_sms(options_, device_.get())),
      miss_policy_(options_.miss_policy),
      tuned_(load_tuned(options_, num_sms_, log_)),
      cache_(cache_options(options_, log_), options_.hooks.cache_files != nullptr
                                                ? *options_.hooks.cache_files
                                                : cache::real_files()),
      templates_digest_(templates_digest()) {
  if (options_.miss_policy != MissPolicy::kNotReady || options_.background_jobs == 0) return;
  const auto build = [this](const jit::KernelSpec& spec, std::string_view why) {
    kernel_for(spec, why);
  };
  background_ = std::make_unique<BackgroundBuilds>(options_.background_jobs, build, log_);
}

Engine::~Engine() { background_.reset(); }

// ---- The central path ----

Cubin Engine::cubin_for(const jit::KernelSpec& spec, Lookup lookup) {
  const jit::Source source = jit::render(spec);
  std::string why = "the driver refused the copy on disk";
  if (lookup == Lookup::kUse) {
    if (std::optional<Cubin> hit = find_on_disk(source, &why))
      return verify(spec, source, std::move(*hit));
  }
  misses_.fetch_add(1, std::memory_order_relaxed);
  if (miss_policy() == MissPolicy::kFrozen || compiler() == nullptr) fail_miss(spec, source);

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

const LoadedKernel& Engine::kernel_for(const jit::KernelSpec& spec, std::string_view why) {
  device();
  bool is_new = false;
  const LoadedKernel& kernel = loaded_.get_or_build(spec, [&] {
    is_new = true;
    LoadedKernel built = build_loaded(spec);
    log_built(spec, built.info(), why);
    return built;
  });
  if (!is_new) memory_hits_.fetch_add(1, std::memory_order_relaxed);
  return kernel;
}

const KernelInfo& Engine::prepare(const jit::KernelSpec& spec, std::string_view why) {
  if (has_device()) return kernel_for(spec, why).info();
  bool is_new = false;
  const KernelInfo& kernel = compiled_.get_or_build(spec, [&] {
    is_new = true;
    KernelInfo info = build_cubin(spec);
    log_built(spec, info, why);
    return info;
  });
  if (!is_new) memory_hits_.fetch_add(1, std::memory_order_relaxed);
  return kernel;
}

LoadedKernel Engine::build_loaded(const jit::KernelSpec& spec) {
  const auto load = [&](const Cubin& cubin, double lookup_ms) {
    KernelInfo info = describe_entry(cubin.entry, cubin.from_disk);
    info.miss_reason = cubin.miss_reason;
    info.load_ms = cubin.from_disk ? lookup_ms : 0;
    LoadedKernel kernel = LoadedKernel::load(device(), cubin.entry, std::move(info));
    loads_.fetch_add(1, std::memory_order_relaxed);
    return kernel;
  };
  const auto begin = std::chrono::steady_clock::now();
  const Cubin cubin = cubin_for(spec);
  if (!cubin.from_disk) return load(cubin, 0);
  try {
    return load(cubin, ms_since(begin));
  } catch (const BadCubin& error) {
    log_.write(LogLevel::kWarning,
               fmt::format("{}; it is set aside and compiled again", error.what()));
  }
  cache_.reject(cubin.entry.key);
  return load(cubin_for(spec, Lookup::kSkip), 0);
}

KernelInfo Engine::build_cubin(const jit::KernelSpec& spec) {
  const Cubin cubin = cubin_for(spec);
  KernelInfo info = describe_entry(cubin.entry, cubin.from_disk);
  info.miss_reason = cubin.miss_reason;
  return info;
}

// ---- What may happen when ----

const LoadedKernel& Engine::kernel_at_launch(const jit::KernelSpec& spec, CUstream stream,
                                             std::string_view why) {
  if (const LoadedKernel* kernel = find_loaded(spec)) {
    memory_hits_.fetch_add(1, std::memory_order_relaxed);
    return *kernel;
  }
  const Driver& driver = device().driver();
  if (is_capturing(driver, stream)) throw not_ready(spec, why, true);
  if (miss_policy() == MissPolicy::kNotReady) throw not_ready(spec, why, false);
  const ContextScope scope(driver, device().context());
  // The default streams belong to the current context, which may only now be the engine's.
  if (scope.pushed() && is_capturing(driver, stream)) throw not_ready(spec, why, true);
  return kernel_for(spec, why);
}

Error Engine::not_ready(const jit::KernelSpec& spec, std::string_view why, bool is_capture) {
  using Answer = BackgroundBuilds::Answer;
  BackgroundBuilds::Reply reply{Answer::kStopped, {}};
  if (background_ != nullptr && miss_policy() == MissPolicy::kNotReady)
    reply = background_->request(spec, why);
  if (reply.answer == Answer::kFailed && !is_capture) {
    return Error(reply.failure.status,
                 fmt::format("building it in the background failed, and only kiln_plan_prepare "
                             "tries it again: {}",
                             reply.failure.message));
  }
  std::string_view reason = "the engine's miss policy is not-ready";
  std::string_view remedy = "call kiln_plan_prepare (or kiln_quantizer_prepare) beforehand";
  if (is_capture) reason = "the stream is being captured";
  if (reply.answer == Answer::kQueued || (reply.answer == Answer::kFull && !is_capture)) {
    reason = reply.answer == Answer::kQueued ? "it is being built in the background"
                                             : "the queue of background builds is full";
    remedy = "launch again later";
  }
  return Error(Status::kNotReady, fmt::format("the kernel of {} is not loaded, and {}: {}",
                                              jit::describe(spec), reason, remedy));
}

void Engine::freeze() {
  miss_policy_.store(MissPolicy::kFrozen, std::memory_order_release);
  if (background_ != nullptr) background_->cancel();
}

void Engine::refuse_in_capture(const char* what) const {
  if (!has_device()) return;
  const ContextScope scope(device().driver(), device().context());
  if (!is_capturing(device().driver(), CU_STREAM_LEGACY) &&
      !is_capturing(device().driver(), CU_STREAM_PER_THREAD)) {
    return;
  }
  throw Error(Status::kCapturing,
              fmt::format("{} may compile and load kernels and was called while a stream "
                          "is being captured: call it before the capture begins",
                          what));
}

// ---- Keys and the disk ----

Engine::Key Engine::key_of(const jit::Source& source, const std::string& toolchain) const {
  cache::KeyBuilder builder(kKeySchema);
  builder.add("templates", templates_digest_)
      .add("arch", jit::name(source.arch))
      .add("entry", source.entry)
      .add("toolchain", toolchain)
      .add("program", cache::to_hex(cache::sha256(source.text)));
  for (const auto& [name, value] : source.constants) builder.add(name, value);
  return {builder.digest(), cache::sha256(toolchain), builder.text()};
}

jit::Compiler* Engine::compiler() {
  std::call_once(compiler_opened_, [&] {
    try {
      std::unique_ptr<jit::Compiler> opened = options_.hooks.open_compiler(options_.nvrtc);
      toolchain_ = toolchain_text(*opened, arch());
      compiler_ = std::move(opened);
    } catch (const Error& error) {
      no_compiler_ = std::make_unique<Error>(error);
      log_.write(LogLevel::kInfo,
                 fmt::format("no compiler, only cached kernels: {}", error.what()));
    }
  });
  return compiler_.get();
}

std::vector<std::string> Engine::toolchains() {
  std::vector<std::string> result;
  const bool can_compile = compiler() != nullptr;
  if (can_compile) result.push_back(toolchain_);
  if (can_compile && miss_policy() != MissPolicy::kFrozen) return result;
  // What cannot be compiled here may have been compiled elsewhere, with another NVRTC.
  for (std::string& recorded : cache_.recorded_toolchains()) {
    if (recorded != toolchain_) result.push_back(std::move(recorded));
  }
  return result;
}

std::optional<Cubin> Engine::find_on_disk(const jit::Source& source, std::string* why) {
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
    other_toolchain_.fetch_add(1, std::memory_order_relaxed);
    *why = "only another toolchain's is there";
  }
  return std::nullopt;
}

// Only asked before a compile, which takes a thousand times longer.
bool Engine::is_there_of_other_toolchain(const jit::Source& source) {
  if (miss_policy() == MissPolicy::kFrozen || compiler() == nullptr) return false;  // looked up
  const std::vector<std::string> known = cache_.recorded_toolchains();
  return std::any_of(known.begin(), known.end(), [&](const std::string& toolchain) {
    return toolchain != toolchain_ && cache_.has_file(key_of(source, toolchain).digest);
  });
}

std::optional<Cubin> Engine::find_on_disk(const jit::Source& source, const Key& key,
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
  hits_.fetch_add(1, std::memory_order_relaxed);
  return Cubin{std::move(*entry), true, ""};
}

cache::Entry Engine::compile(const jit::KernelSpec& spec, const jit::Source& source, Key key) {
  compiles_.fetch_add(1, std::memory_order_relaxed);
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
Cubin Engine::verify(const jit::KernelSpec& spec, const jit::Source& source, Cubin hit) {
  if (!options_.verify || miss_policy() == MissPolicy::kFrozen || compiler() == nullptr) return hit;
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
  verified_.fetch_add(1, std::memory_order_relaxed);
  const std::string mismatch = describe_mismatch(hit.entry, built.entry);
  if (mismatch.empty()) return hit;
  verify_mismatches_.fetch_add(1, std::memory_order_relaxed);
  log_.write(LogLevel::kWarning, mismatch);
  cache_.reject(hit.entry.key);
  if (cache_.publish(built.entry)) cache_.record_toolchain(toolchain_);
  return built;
}

void Engine::fail_miss(const jit::KernelSpec& spec, const jit::Source& source) {
  const std::vector<std::string> known = toolchains();
  const std::string key = known.empty() ? "" : cache::to_hex(key_of(source, known.front()).digest);
  const std::string what =
      fmt::format("the kernel of {} is not in the cache ({})", jit::describe(spec),
                  key.empty() ? "it has no key here: there is no NVRTC and the cache records none"
                              : "key " + key);
  if (miss_policy() == MissPolicy::kFrozen) {
    throw Error(Status::kFrozen,
                what +
                    ", and compiling is not allowed (KILN_MISS_FROZEN, KILN_NO_COMPILE or "
                    "kiln_engine_freeze): fill the cache with `kiln warm` or `kiln cache import`, "
                    "or allow it");
  }
  throw Error(no_compiler_->status(), what + ", and cannot be compiled: " + no_compiler_->what());
}

// ---- Questions ----

BackgroundBuilds::Counts Engine::background() const {
  return background_ != nullptr ? background_->counts() : BackgroundBuilds::Counts{};
}

const KernelInfo* Engine::find_prepared(const jit::KernelSpec& spec) const {
  if (!has_device()) return compiled_.find(spec);
  const LoadedKernel* kernel = loaded_.find(spec);
  return kernel != nullptr ? &kernel->info() : nullptr;
}

std::string Engine::key_for(const jit::KernelSpec& spec) {
  const std::vector<std::string> known = toolchains();
  return known.empty() ? std::string()
                       : cache::to_hex(key_of(jit::render(spec), known.front()).digest);
}

const Device& Engine::device() const {
  if (device_ != nullptr) return *device_;
  throw Error(
      Status::kNoDevice,
      "the engine was created with KILN_DEVICE_NONE: it plans, compiles and caches, but cannot "
      "launch; create one with a device ordinal or KILN_DEVICE_CURRENT");
}

void Engine::log_built(const jit::KernelSpec& spec, const KernelInfo& info,
                       std::string_view why) const {
  if (!log_.enabled(LogLevel::kInfo)) return;
  log_.write(
      LogLevel::kInfo,
      fmt::format("{} {} in {:.1f} ms{}: {} registers, {} bytes spilled, {} bytes of shared "
                  "memory, cubin of {} bytes, key {}{}{}",
                  info.from_disk ? "found" : "compiled", jit::describe(spec),
                  info.from_disk ? info.load_ms : info.compile_ms + info.load_ms,
                  info.from_disk ? "" : fmt::format(" (not from the cache: {})", info.miss_reason),
                  info.registers, info.spill_bytes,
                  info.launch.dynamic_smem_bytes + info.static_smem_bytes, info.cubin_bytes,
                  info.key, why.empty() ? "" : ": ", why));
}

}  // namespace kiln::runtime

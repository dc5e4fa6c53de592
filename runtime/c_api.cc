// The boundary only: check, guard, forward. Nothing is thrown across it and nothing is decided
// here.

#include <fmt/format.h>

#include <new>
#include <string>
#include <utility>

#include "runtime/c_struct.h"
#include "runtime/c_tile.h"
#include "runtime/fork_guard.h"
#include "runtime/handles.h"
#include "runtime/kiln.h"
#include "runtime/probe.h"

namespace kiln::runtime {
namespace {

static_assert(static_cast<int>(Status::kOk) == KILN_OK);
static_assert(static_cast<int>(Status::kInvalidArgument) == KILN_ERROR_INVALID_ARGUMENT);
static_assert(static_cast<int>(Status::kUnsupported) == KILN_ERROR_UNSUPPORTED);
static_assert(static_cast<int>(Status::kNoCompiler) == KILN_ERROR_NO_COMPILER);
static_assert(static_cast<int>(Status::kCompileFailed) == KILN_ERROR_COMPILE_FAILED);
static_assert(static_cast<int>(Status::kNoDriver) == KILN_ERROR_NO_DRIVER);
static_assert(static_cast<int>(Status::kNoDevice) == KILN_ERROR_NO_DEVICE);
static_assert(static_cast<int>(Status::kNotReady) == KILN_ERROR_NOT_READY);
static_assert(static_cast<int>(Status::kFrozen) == KILN_ERROR_FROZEN);
static_assert(static_cast<int>(Status::kCapturing) == KILN_ERROR_CAPTURING);
static_assert(static_cast<int>(Status::kDriverError) == KILN_ERROR_DRIVER);
static_assert(static_cast<int>(Status::kOutOfMemory) == KILN_ERROR_OUT_OF_MEMORY);
static_assert(static_cast<int>(Status::kForked) == KILN_ERROR_FORKED);
static_assert(static_cast<int>(Status::kInternal) == KILN_ERROR_INTERNAL);
static_assert(static_cast<int>(cache::DirectoryState::kUsable) == KILN_CACHE_USABLE);
static_assert(static_cast<int>(cache::DirectoryState::kDisabled) == KILN_CACHE_DISABLED);
static_assert(static_cast<int>(cache::DirectoryState::kReadOnly) == KILN_CACHE_READ_ONLY);
static_assert(static_cast<int>(cache::DirectoryState::kUntrusted) == KILN_CACHE_UNTRUSTED);
static_assert(static_cast<int>(cache::DirectoryState::kUnusable) == KILN_CACHE_UNUSABLE);

// ---- Errors ----

struct LastError {
  std::string owned;
  const char* text = "";
};
thread_local LastError last_error;

kiln_status fail(Status status, const char* message) noexcept {
  try {
    last_error.owned = message;
    last_error.text = last_error.owned.c_str();
  } catch (...) {  // no memory for the text: a fixed one stands for it
    last_error.text = "out of memory";
  }
  return static_cast<kiln_status>(status);
}

template <class Body>
kiln_status guard(Body&& body) noexcept {
  if (is_forked()) [[unlikely]] {
    return fail(
        Status::kForked,
        "this process was forked from one that created a Kiln engine, and neither CUDA nor NVRTC "
        "works in such a child: create engines after the fork, or start the child with exec");
  }
  try {
    std::forward<Body>(body)();
    return KILN_OK;
  } catch (const Error& error) {
    return fail(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(Status::kOutOfMemory, "out of host memory");
  } catch (const std::exception& error) {
    return fail(Status::kInternal, error.what());
  } catch (...) {
    return fail(Status::kInternal, "an exception of unknown type reached the C boundary");
  }
}

template <class T>
void require(T* pointer, const char* name) {
  if (pointer != nullptr) [[likely]]
    return;
  throw Error(Status::kInvalidArgument, fmt::format("{} must not be null", name));
}

// ---- From C values to ours ----

// The words are those of the constants, in order from `first`.
template <class T, std::size_t kCount>
T to_enum(const char* field, std::int32_t value, std::int32_t first,
          const char* const (&words)[kCount]) {
  const std::int64_t index = std::int64_t{value} - first;
  if (index >= 0 && index < static_cast<std::int64_t>(kCount)) return static_cast<T>(index);
  std::string accepted;
  for (std::size_t i = 0; i < kCount; ++i) {
    accepted += fmt::format("{}{} ({})", i == 0 ? "" : " or ", words[i],
                            first + static_cast<std::int32_t>(i));
  }
  throw Error(Status::kInvalidArgument,
              fmt::format("{} must be {}, got {}", field, accepted, value));
}

bool to_bool(const char* field, std::int32_t value) {
  if (value == 0 || value == 1) return value == 1;
  throw Error(Status::kInvalidArgument, fmt::format("{} must be 0 or 1, got {}", field, value));
}

jit::Fp8Type to_fp8(const char* field, std::int32_t value) {
  return to_enum<jit::Fp8Type>(field, value, KILN_TYPE_E4M3, {"KILN_TYPE_E4M3", "KILN_TYPE_E5M2"});
}

jit::ScaleMajor to_scale_major(const char* field, std::int32_t value) {
  return to_enum<jit::ScaleMajor>(field, value, KILN_SCALE_ROW_MAJOR,
                                  {"KILN_SCALE_ROW_MAJOR", "KILN_SCALE_M_MAJOR"});
}

jit::Problem to_problem(const kiln_problem& p) {
  jit::Problem problem;
  problem.layout = to_enum<jit::Layout>(
      "layout", p.layout, KILN_LAYOUT_DENSE,
      {"KILN_LAYOUT_DENSE", "KILN_LAYOUT_GROUPED_CONTIGUOUS", "KILN_LAYOUT_GROUPED_MASKED",
       "KILN_LAYOUT_GROUPED_K"});
  problem.scaling = to_enum<jit::Scaling>("scaling", p.scaling, KILN_SCALING_1D2D,
                                          {"KILN_SCALING_1D2D", "KILN_SCALING_1D1D"});
  problem.n = p.n;
  problem.k = p.k;
  problem.a = to_fp8("a_type", p.a_type);
  problem.b = to_fp8("b_type", p.b_type);
  problem.out = to_enum<jit::OutputType>("d_type", p.d_type, KILN_TYPE_BF16,
                                         {"KILN_TYPE_BF16", "KILN_TYPE_F32"});
  problem.sfa_major = to_scale_major("sfa_major", p.sfa_major);
  problem.accumulate = to_bool("accumulate", p.accumulate);
  problem.group_form = to_enum<jit::GroupForm>(
      "group_form", p.group_form, KILN_GROUPS_NONE,
      {"KILN_GROUPS_NONE", "KILN_GROUPS_LABELS", "KILN_GROUPS_ENDS", "KILN_GROUPS_ROWS",
       "KILN_GROUPS_PACKED"});
  problem.groups = p.groups;
  problem.alignment = p.alignment;
  problem.batch_invariant = to_bool("batch_invariant", p.batch_invariant);
  if (p.reserved != 0)
    throw Error(Status::kInvalidArgument, fmt::format("reserved must be 0, got {}", p.reserved));
  return problem;
}

jit::QuantizeSpec to_quantize_spec(const kiln_quantize_problem& p) {
  jit::QuantizeSpec spec;
  spec.in = to_enum<jit::QuantizeInput>("in_type", p.in_type, KILN_TYPE_BF16,
                                        {"KILN_TYPE_BF16", "KILN_TYPE_F32"});
  spec.out = to_fp8("out_type", p.out_type);
  spec.granularity = to_enum<jit::ScaleGranularity>("granularity", p.granularity, KILN_SCALE_1X128,
                                                    {"KILN_SCALE_1X128", "KILN_SCALE_128X128"});
  spec.scale_major = to_scale_major("scale_major", p.scale_major);
  spec.power_of_two = to_bool("power_of_two", p.power_of_two);
  spec.two_way = to_bool("two_way", p.two_way);
  return spec;
}

void fill_statistics(const Engine& engine, kiln_cache_statistics* out) {
  const cache::Stats stats = engine.disk_cache().stats();
  out->state = static_cast<std::int32_t>(engine.disk_cache().state());
  out->hits = engine.hits();
  out->misses = engine.misses();
  out->miss_absent = stats.miss_absent;
  out->miss_truncated = stats.miss_truncated;
  out->miss_format = stats.miss_format;
  out->miss_checksum = stats.miss_checksum;
  out->miss_key = stats.miss_key;
  out->miss_toolchain = stats.miss_toolchain;
  out->miss_untrusted = stats.miss_untrusted;
  out->miss_io = stats.miss_io;
  out->compiles = engine.compiles();
  out->loads = engine.loads();
  out->published = stats.published;
  out->publish_lost_race = stats.publish_lost_race;
  out->publish_failed = stats.publish_failed;
  out->quarantined = stats.quarantined;
  out->evicted = stats.evicted;
  out->lock_waits = stats.lock_waits;
  out->lock_timeouts = stats.lock_timeouts;
  copy_text(engine.disk_cache().state_message(), out->message);
  out->memory_hits = engine.memory_hits();
  out->directory_hits = stats.directory_hits;
  static_assert(std::size(kiln_cache_statistics{}.layer_hits) == cache::kCountedLayers);
  std::copy(stats.layer_hits.begin(), stats.layer_hits.end(), out->layer_hits);
  out->miss_other_toolchain = engine.other_toolchain();
  const BackgroundBuilds::Counts background = engine.background();
  out->background_pending = background.pending;
  out->background_built = background.built;
  out->background_failed = background.failed;
  out->background_refused = background.refused;
  out->frozen = engine.miss_policy() == MissPolicy::kFrozen ? 1 : 0;
  out->verified = engine.verified();
  out->verify_mismatches = engine.verify_mismatches();
}

// In a forked child the handle is left alone: its locks, its threads and the driver are not usable.
template <class Handle>
void destroy(Handle* handle) noexcept {
  if (!is_forked()) delete handle;
}

constexpr kiln_engine_options kDefaultOptions = KILN_ENGINE_OPTIONS_INIT;
constexpr kiln_problem kDefaultProblem = KILN_PROBLEM_INIT;
constexpr kiln_tile kDefaultTile = KILN_TILE_INIT;
constexpr kiln_operands kDefaultOperands = KILN_OPERANDS_INIT;
constexpr kiln_quantize_problem kDefaultQuantizeProblem = KILN_QUANTIZE_PROBLEM_INIT;
constexpr kiln_quantize_operands kDefaultQuantizeOperands = KILN_QUANTIZE_OPERANDS_INIT;

}  // namespace

Engine& engine_of(kiln_engine* handle) { return *handle->engine; }

kiln_status create_engine(const kiln_engine_options* options, const Environment& environment,
                          const EngineHooks& hooks, kiln_engine** engine) noexcept {
  if (engine != nullptr) *engine = nullptr;
  return guard([&] {
    require(engine, "engine");
    kiln_engine_options storage;
    EngineOptions resolved = resolve(read_struct(options != nullptr ? options : &kDefaultOptions,
                                                 "options", kDefaultOptions, &storage),
                                     environment);
    resolved.hooks = hooks;
    mark_process();
    *engine = new kiln_engine{std::make_shared<Engine>(std::move(resolved))};
  });
}

kiln_status probe(const char* nvrtc_path, const Environment& environment, const EngineHooks& hooks,
                  kiln_probe_report* report) noexcept {
  return guard([&] {
    write_struct(report, "report", [&](kiln_probe_report* out) {
      fill_probe_report(nvrtc_search(nvrtc_path, environment), hooks, out);
    });
  });
}

}  // namespace kiln::runtime

// ---- kiln.h ----

using namespace kiln::runtime;

const char* kiln_status_string(kiln_status status) {
  switch (status) {
    case KILN_OK: return "KILN_OK";
    case KILN_ERROR_INVALID_ARGUMENT: return "KILN_ERROR_INVALID_ARGUMENT";
    case KILN_ERROR_UNSUPPORTED: return "KILN_ERROR_UNSUPPORTED";
    case KILN_ERROR_NO_COMPILER: return "KILN_ERROR_NO_COMPILER";
    case KILN_ERROR_COMPILE_FAILED: return "KILN_ERROR_COMPILE_FAILED";
    case KILN_ERROR_NO_DRIVER: return "KILN_ERROR_NO_DRIVER";
    case KILN_ERROR_NO_DEVICE: return "KILN_ERROR_NO_DEVICE";
    case KILN_ERROR_NOT_READY: return "KILN_ERROR_NOT_READY";
    case KILN_ERROR_FROZEN: return "KILN_ERROR_FROZEN";
    case KILN_ERROR_CAPTURING: return "KILN_ERROR_CAPTURING";
    case KILN_ERROR_DRIVER: return "KILN_ERROR_DRIVER";
    case KILN_ERROR_OUT_OF_MEMORY: return "KILN_ERROR_OUT_OF_MEMORY";
    case KILN_ERROR_FORKED: return "KILN_ERROR_FORKED";
    case KILN_ERROR_INTERNAL: return "KILN_ERROR_INTERNAL";
    default: return "unknown status";
  }
}

const char* kiln_last_error(void) { return last_error.text; }

size_t kiln_last_error_copy(char* buffer, size_t size) {
  const std::size_t length = std::strlen(last_error.text);
  if (buffer != nullptr && size > 0) {
    const std::size_t copied = std::min(length, size - 1);
    std::memcpy(buffer, last_error.text, copied);
    buffer[copied] = '\0';
  }
  return length;
}

void kiln_version(int32_t* major, int32_t* minor, int32_t* patch) {
  if (major != nullptr) *major = KILN_VERSION_MAJOR;
  if (minor != nullptr) *minor = KILN_VERSION_MINOR;
  if (patch != nullptr) *patch = KILN_VERSION_PATCH;
}

const char* kiln_build_info(void) {
  try {
    static const std::string text =
        fmt::format("kiln {}.{}.{}, g++ {}, templates {}", KILN_VERSION_MAJOR, KILN_VERSION_MINOR,
                    KILN_VERSION_PATCH, __VERSION__, templates_digest());
    return text.c_str();
  } catch (...) {  // no memory for the text
    return "kiln";
  }
}

kiln_status kiln_probe(const char* nvrtc_path, kiln_probe_report* report) {
  try {
    return probe(nvrtc_path, Environment::read(), {}, report);
  } catch (...) {  // copying the environment can run out of memory
    return fail(kiln::Status::kOutOfMemory, "out of host memory");
  }
}

kiln_status kiln_engine_create(const kiln_engine_options* options, kiln_engine** engine) {
  if (engine != nullptr) *engine = nullptr;
  try {
    return create_engine(options, Environment::read(), {}, engine);
  } catch (...) {  // as in kiln_probe
    return fail(kiln::Status::kOutOfMemory, "out of host memory");
  }
}

void kiln_engine_destroy(kiln_engine* engine) { destroy(engine); }

kiln_status kiln_engine_freeze(kiln_engine* engine) {
  return guard([&] {
    require(engine, "engine");
    engine->engine->freeze();
  });
}

kiln_status kiln_plan_create(kiln_engine* engine, const kiln_problem* problem,
                             const kiln_tile* tile, kiln_plan** plan) {
  if (plan != nullptr) *plan = nullptr;
  return guard([&] {
    require(plan, "plan");
    require(engine, "engine");
    kiln_problem problem_storage;
    const kiln_problem& asked = read_struct(problem, "problem", kDefaultProblem, &problem_storage);
    std::optional<kiln::jit::Tile> chosen;
    if (tile != nullptr) {
      kiln_tile tile_storage;
      chosen = from_c(read_struct(tile, "tile", kDefaultTile, &tile_storage));
    }
    *plan = new kiln_plan{std::make_shared<Plan>(engine->engine, to_problem(asked), chosen)};
  });
}

void kiln_plan_destroy(kiln_plan* plan) { destroy(plan); }

kiln_status kiln_plan_prepare(kiln_plan* plan, int64_t m_min, int64_t m_max) {
  return guard([&] {
    require(plan, "plan");
    plan->plan->prepare(m_min, m_max);
  });
}

kiln_status kiln_plan_describe(const kiln_plan* plan, int64_t m,
                               kiln_plan_description* description) {
  return guard([&] {
    write_struct(description, "description", [&](kiln_plan_description* out) {
      require(plan, "plan");
      plan->plan->describe(m, out);
    });
  });
}

kiln_status kiln_launch(const kiln_plan* plan, const kiln_operands* operands, kiln_stream stream) {
  return guard([&] {
    require(plan, "plan");
    kiln_operands storage;
    plan->plan->launch(read_struct(operands, "operands", kDefaultOperands, &storage), stream);
  });
}

kiln_status kiln_quantizer_create(kiln_engine* engine, const kiln_quantize_problem* problem,
                                  kiln_quantizer** quantizer) {
  if (quantizer != nullptr) *quantizer = nullptr;
  return guard([&] {
    require(quantizer, "quantizer");
    require(engine, "engine");
    kiln_quantize_problem storage;
    const auto spec =
        to_quantize_spec(read_struct(problem, "problem", kDefaultQuantizeProblem, &storage));
    *quantizer = new kiln_quantizer{std::make_shared<Quantizer>(engine->engine, spec)};
  });
}

void kiln_quantizer_destroy(kiln_quantizer* quantizer) { destroy(quantizer); }

kiln_status kiln_quantizer_prepare(kiln_quantizer* quantizer) {
  return guard([&] {
    require(quantizer, "quantizer");
    quantizer->quantizer->prepare();
  });
}

kiln_status kiln_quantize(const kiln_quantizer* quantizer, const kiln_quantize_operands* operands,
                          kiln_stream stream) {
  return guard([&] {
    require(quantizer, "quantizer");
    kiln_quantize_operands storage;
    quantizer->quantizer->launch(
        read_struct(operands, "operands", kDefaultQuantizeOperands, &storage), stream);
  });
}

kiln_status kiln_cache_stats(const kiln_engine* engine, kiln_cache_statistics* statistics) {
  return guard([&] {
    write_struct(statistics, "statistics", [&](kiln_cache_statistics* out) {
      require(engine, "engine");
      fill_statistics(*engine->engine, out);
    });
  });
}

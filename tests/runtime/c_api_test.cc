// The C boundary: null pointers, errors as text, the environment, the log, devices that are missing
// or not Hopper, and forked children.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include "tests/runtime/support.h"

namespace kiln::test {
namespace {

using runtime::Environment;

kiln_status create(const FakeMachine& machine, const kiln_engine_options& options,
                   const Environment& environment = {}, EngineHandle* out = nullptr) {
  kiln_engine* engine = reinterpret_cast<kiln_engine*>(1);
  const kiln_status status =
      runtime::create_engine(&options, environment, machine.hooks(), &engine);
  CHECK((engine == nullptr) == (status != KILN_OK));
  EngineHandle owned(engine);
  if (out != nullptr) *out = std::move(owned);
  return status;
}

kiln_problem& contiguous(kiln_problem& problem) {
  problem.layout = KILN_LAYOUT_GROUPED_CONTIGUOUS;
  problem.group_form = KILN_GROUPS_ENDS;
  problem.alignment = 128;
  return problem;
}

kiln_cache_statistics stats_of(const EngineHandle& engine) {
  kiln_cache_statistics statistics = KILN_CACHE_STATISTICS_INIT;
  REQUIRE(kiln_cache_stats(engine.get(), &statistics) == KILN_OK);
  return statistics;
}

}  // namespace

TEST_CASE("every status has the name of its constant", "[runtime]") {
  CHECK(std::string(kiln_status_string(KILN_OK)) == "KILN_OK");
  CHECK(std::string(kiln_status_string(KILN_ERROR_NO_DEVICE)) == "KILN_ERROR_NO_DEVICE");
  for (int status = 0; status <= KILN_ERROR_INTERNAL; ++status) {
    CHECK(std::string(kiln_status_string(status)).rfind("KILN_", 0) == 0);
  }
  CHECK(std::string(kiln_status_string(999)) == "unknown status");
  CHECK(std::string(kiln_status_string(-1)) == "unknown status");
}

TEST_CASE("the version is that of the header and the build is described", "[runtime]") {
  int32_t major = -1, minor = -1, patch = -1;
  kiln_version(&major, &minor, &patch);
  CHECK(
      (major == KILN_VERSION_MAJOR && minor == KILN_VERSION_MINOR && patch == KILN_VERSION_PATCH));
  kiln_version(nullptr, nullptr, nullptr);
  CHECK(std::string(kiln_build_info()).find("templates ") != std::string::npos);
}

TEST_CASE("a failure's text belongs to its thread, outlives successes and can be copied out",
          "[runtime]") {
  CHECK(kiln_plan_prepare(nullptr, 0, 1) == KILN_ERROR_INVALID_ARGUMENT);
  const std::string text = kiln_last_error();
  CHECK(text == "plan must not be null");
  std::thread([] { CHECK(std::string(kiln_last_error()).empty()); }).join();
  FakeMachine machine;
  CHECK(create(machine, quiet_options()) == KILN_OK);
  CHECK(kiln_last_error() == text);
  char buffer[8] = "xxxxxxx";
  CHECK(kiln_last_error_copy(buffer, sizeof(buffer)) == text.size());
  CHECK(std::string(buffer) == text.substr(0, 7));
  CHECK(kiln_last_error_copy(nullptr, 0) == text.size());
}

TEST_CASE("null handles and pointers are errors, destroying null is not", "[runtime]") {
  FakeMachine machine;
  const EngineHandle engine = make_engine(machine, quiet_options());
  const PlanHandle plan = make_plan(engine);
  const kiln_problem problem = small_problem();
  const kiln_quantize_problem cast = KILN_QUANTIZE_PROBLEM_INIT;
  const kiln_operands operands = good_operands();
  const kiln_quantize_operands cast_operands = KILN_QUANTIZE_OPERANDS_INIT;
  kiln_plan* new_plan = nullptr;
  kiln_quantizer* quantizer = nullptr;
  kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
  kiln_cache_statistics statistics = KILN_CACHE_STATISTICS_INIT;
  constexpr kiln_status kBad = KILN_ERROR_INVALID_ARGUMENT;
  CHECK(kiln_engine_create(nullptr, nullptr) == kBad);
  CHECK(kiln_plan_create(nullptr, &problem, nullptr, &new_plan) == kBad);
  CHECK(kiln_plan_create(engine.get(), nullptr, nullptr, &new_plan) == kBad);
  CHECK(kiln_plan_create(engine.get(), &problem, nullptr, nullptr) == kBad);
  CHECK(kiln_plan_describe(nullptr, 1, &description) == kBad);
  CHECK(kiln_plan_describe(plan.get(), 1, nullptr) == kBad);
  CHECK(kiln_launch(nullptr, &operands, nullptr) == kBad);
  CHECK(kiln_launch(plan.get(), nullptr, nullptr) == kBad);
  CHECK(kiln_quantizer_create(nullptr, &cast, &quantizer) == kBad);
  CHECK(kiln_quantizer_create(engine.get(), nullptr, &quantizer) == kBad);
  CHECK(kiln_quantizer_create(engine.get(), &cast, nullptr) == kBad);
  CHECK(kiln_quantizer_prepare(nullptr) == kBad);
  CHECK(kiln_quantize(nullptr, &cast_operands, nullptr) == kBad);
  CHECK(kiln_cache_stats(nullptr, &statistics) == kBad);
  CHECK(kiln_cache_stats(engine.get(), nullptr) == kBad);
  CHECK(kiln_probe(nullptr, nullptr) == kBad);
  kiln_engine_destroy(nullptr);
  kiln_plan_destroy(nullptr);
  kiln_quantizer_destroy(nullptr);
}

TEST_CASE("each wrong field of a problem is refused by name and value", "[runtime]") {
  FakeMachine machine;
  const EngineHandle engine = make_engine(machine, quiet_options());
  struct Case {
    const char* words;
    void (*change)(kiln_problem&);
  };
  const Case cases[] = {
      {"KILN_LAYOUT_GROUPED_MASKED (2) or KILN_LAYOUT_GROUPED_K (3), got 256",
       [](kiln_problem& p) { p.layout = 256; }},
      {"scaling must be", [](kiln_problem& p) { p.scaling = -1; }},
      {"n must be a multiple of 8", [](kiln_problem& p) { p.n = 1001; }},
      {"n must be in", [](kiln_problem& p) { p.n = 0; }},
      {"n must be in", [](kiln_problem& p) { p.n = INT64_MAX; }},
      {"k must be a multiple of 16", [](kiln_problem& p) { p.k = 1000; }},
      {"k must be in", [](kiln_problem& p) { p.k = -128; }},
      {"a_type must be KILN_TYPE_E4M3 (0) or KILN_TYPE_E5M2 (1), got 2",
       [](kiln_problem& p) { p.a_type = 2; }},
      {"b_type must be", [](kiln_problem& p) { p.b_type = 257; }},
      {"d_type must be KILN_TYPE_BF16 (2) or KILN_TYPE_F32 (3), got 0",
       [](kiln_problem& p) { p.d_type = 0; }},
      {"sfa_major must be", [](kiln_problem& p) { p.sfa_major = 2; }},
      {"accumulate must be 0 or 1, got 2", [](kiln_problem& p) { p.accumulate = 2; }},
      {"group_form must be KILN_GROUPS_NONE (0)", [](kiln_problem& p) { p.group_form = 5; }},
      {"group_form must be none for layout dense, got ends",
       [](kiln_problem& p) { p.group_form = KILN_GROUPS_ENDS; }},
      {"groups must be 1 for layout dense, got 0", [](kiln_problem& p) { p.groups = 0; }},
      {"alignment must be 0 for layout dense", [](kiln_problem& p) { p.alignment = 1; }},
      {"sfa_major must be m for scaling 1d1d",
       [](kiln_problem& p) { p.scaling = KILN_SCALING_1D1D; }},
      {"scaling must be 1d1d for layout grouped_k",
       [](kiln_problem& p) { p.layout = KILN_LAYOUT_GROUPED_K; }},
      {"group_form must be rows for layout grouped_masked, got none",
       [](kiln_problem& p) { p.layout = KILN_LAYOUT_GROUPED_MASKED; }},
      {"groups must be in 1..1024, got 1025", [](kiln_problem& p) { contiguous(p).groups = 1025; }},
      {"alignment must be a power of two in 1..1024",
       [](kiln_problem& p) { contiguous(p).alignment = 96; }},
      {"alignment must be a power of two in 1..1024",
       [](kiln_problem& p) { contiguous(p).alignment = 0; }},
  };
  for (const Case& test : cases) {
    kiln_problem problem = small_problem();
    test.change(problem);
    kiln_plan* plan = reinterpret_cast<kiln_plan*>(1);
    INFO(test.words);
    CHECK(kiln_plan_create(engine.get(), &problem, nullptr, &plan) == KILN_ERROR_INVALID_ARGUMENT);
    INFO(kiln_last_error());
    CHECK(error_mentions(test.words));
    CHECK(plan == nullptr);
  }
  kiln_tile tile = KILN_TILE_INIT;
  tile.block_m = 100;
  const kiln_problem problem = small_problem();
  kiln_plan* plan = nullptr;
  CHECK(kiln_plan_create(engine.get(), &problem, &tile, &plan) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("block_m"));
  kiln_quantize_problem cast = KILN_QUANTIZE_PROBLEM_INIT;
  cast.granularity = KILN_SCALE_128X128;
  cast.scale_major = KILN_SCALE_M_MAJOR;
  kiln_quantizer* quantizer = nullptr;
  CHECK(kiln_quantizer_create(engine.get(), &cast, &quantizer) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("scale_major"));
}

TEST_CASE("each wrong engine option is refused by name and value", "[runtime]") {
  FakeMachine machine;
  kiln_engine_options none = quiet_options(KILN_DEVICE_NONE);
  const auto refused = [&](kiln_status status, const char* words, auto&& change) {
    kiln_engine_options options = none;
    change(options);
    INFO(words);
    CHECK(create(machine, options) == status);
    INFO(kiln_last_error());
    CHECK(error_mentions(words));
  };
  using Options = kiln_engine_options;
  refused(KILN_ERROR_UNSUPPORTED, "arch must be 90", [](Options& o) { o.arch = 80; });
  refused(KILN_ERROR_UNSUPPORTED, "arch must be 90", [](Options& o) { o.arch = 0; });
  refused(KILN_ERROR_INVALID_ARGUMENT, "num_sms must be in 1..1024",
          [](Options& o) { o.num_sms = 0; });
  refused(KILN_ERROR_INVALID_ARGUMENT, "num_sms must be in 1..1024",
          [](Options& o) { o.num_sms = 1025; });
  refused(KILN_ERROR_INVALID_ARGUMENT, "miss_policy must be",
          [](Options& o) { o.miss_policy = 4; });
  refused(KILN_ERROR_INVALID_ARGUMENT, "log_level must be", [](Options& o) { o.log_level = 6; });
  refused(KILN_ERROR_INVALID_ARGUMENT, "check_groups must be one of KILN_CHECK_* (0 to 2), got 3",
          [](Options& o) { o.check_groups = 3; });
  refused(KILN_ERROR_INVALID_ARGUMENT, "verify must be one of KILN_VERIFY_* (0 to 2), got -1",
          [](Options& o) { o.verify = -1; });
  refused(KILN_ERROR_INVALID_ARGUMENT, "device must be an ordinal",
          [](Options& o) { o.device = -3; });
  refused(KILN_ERROR_INVALID_ARGUMENT, "num_sms must be 0 (all) or at most the 132 SMs",
          [](Options& o) { o.device = 0, o.num_sms = 133, o.arch = 0; });
  refused(KILN_ERROR_NO_DEVICE, "device must be an ordinal below the 1 CUDA device(s)",
          [](Options& o) { o.device = 1, o.num_sms = 0, o.arch = 0; });
  CHECK(create(machine, none) == KILN_OK);
}

TEST_CASE("the environment is the default of each option and never overrides one", "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
  options.cache_dir = options.cache_path = nullptr;
  Environment environment;
  environment.cache_dir = dir / "from-environment";
  EngineHandle engine;
  REQUIRE(create(machine, options, environment, &engine) == KILN_OK);
  REQUIRE(kiln_plan_prepare(make_plan(engine).get(), 1, 1) == KILN_OK);
  CHECK(stats_of(engine).state == KILN_CACHE_USABLE);
  CHECK(std::filesystem::exists(dir / "from-environment/v1"));

  SECTION("a directory option wins") {
    const std::string mine = dir / "from-option";
    options.cache_dir = mine.c_str();
    environment.cache_dir = dir / "unused";
    REQUIRE(create(machine, options, environment, &engine) == KILN_OK);
    REQUIRE(kiln_plan_prepare(make_plan(engine).get(), 1, 1) == KILN_OK);
    CHECK(std::filesystem::exists(dir / "from-option/v1"));
    CHECK_FALSE(std::filesystem::exists(dir / "unused"));
  }
  SECTION("an empty directory means memory only") {
    environment.cache_dir = "";
    REQUIRE(create(machine, options, environment, &engine) == KILN_OK);
    CHECK(stats_of(engine).state == KILN_CACHE_DISABLED);
  }
  SECTION("read-only layers are searched, colon-separated") {
    environment.cache_dir = "";
    environment.cache_path = ":" + (dir / "absent") + ":" + (dir / "from-environment") + ":";
    REQUIRE(create(machine, options, environment, &engine) == KILN_OK);
    REQUIRE(kiln_plan_prepare(make_plan(engine).get(), 1, 1) == KILN_OK);
    CHECK(stats_of(engine).hits == 1);
    CHECK(stats_of(engine).compiles == 0);
  }
  SECTION("KILN_NO_COMPILE freezes, unless the option says otherwise") {
    environment.cache_dir = "";
    environment.no_compile = "1";
    REQUIRE(create(machine, options, environment, &engine) == KILN_OK);
    CHECK(kiln_plan_prepare(make_plan(engine).get(), 1, 1) == KILN_ERROR_FROZEN);
    options.miss_policy = KILN_MISS_BLOCK;
    REQUIRE(create(machine, options, environment, &engine) == KILN_OK);
    CHECK(kiln_plan_prepare(make_plan(engine).get(), 1, 1) == KILN_OK);
    options.miss_policy = KILN_MISS_DEFAULT;
    environment.no_compile = "yes";
    CHECK(create(machine, options, environment) == KILN_ERROR_INVALID_ARGUMENT);
    CHECK(error_mentions("KILN_NO_COMPILE must be 1 or 0, got \"yes\""));
  }
  SECTION("KILN_VERIFY turns verifying on, unless the option says otherwise") {
    environment.verify = "1";
    const auto verified = [&] {
      REQUIRE(create(machine, options, environment, &engine) == KILN_OK);
      REQUIRE(kiln_plan_prepare(make_plan(engine).get(), 1, 1) == KILN_OK);
      REQUIRE(stats_of(engine).hits == 1);
      return stats_of(engine).verified;
    };
    CHECK(verified() == 1);
    options.verify = KILN_VERIFY_OFF;
    CHECK(verified() == 0);
    options.verify = KILN_VERIFY_DEFAULT;
    environment.verify = "";
    CHECK(verified() == 0);
    environment.verify = "2";
    CHECK(create(machine, options, environment) == KILN_ERROR_INVALID_ARGUMENT);
    CHECK(error_mentions("KILN_VERIFY must be 1 or 0, got \"2\""));
  }
  SECTION("KILN_CHECK_GROUPS turns the check on, unless the option says otherwise") {
    const auto checks = [&] {
      REQUIRE(create(machine, options, environment, &engine) == KILN_OK);
      return runtime::engine_of(engine.get()).check_groups();
    };
    CHECK_FALSE(checks());
    environment.check_groups = "1";
    CHECK(checks());
    options.check_groups = KILN_CHECK_OFF;
    CHECK_FALSE(checks());
    environment.check_groups = "0";
    options.check_groups = KILN_CHECK_ON;
    CHECK(checks());
    options.check_groups = KILN_CHECK_DEFAULT;
    environment.check_groups = "on";
    CHECK(create(machine, options, environment) == KILN_ERROR_INVALID_ARGUMENT);
    CHECK(error_mentions("KILN_CHECK_GROUPS must be 1 or 0, got \"on\""));
  }
  SECTION("a log level that does not exist is refused") {
    options.log_level = KILN_LOG_DEFAULT;
    environment.log_level = "loud";
    CHECK(create(machine, options, environment) == KILN_ERROR_INVALID_ARGUMENT);
    CHECK(error_mentions("KILN_LOG_LEVEL must be one of off, error, warning, info, debug"));
  }
  SECTION("the NVRTC path") {
    environment.nvrtc = "/from/environment";
    environment.virtual_env = "/venv";
    CHECK(runtime::nvrtc_search(nullptr, environment).explicit_path == "/from/environment");
    CHECK(runtime::nvrtc_search("/mine", environment).explicit_path == "/mine");
    CHECK(runtime::nvrtc_search(nullptr, environment).venv_dirs.front() == "/venv");
  }
}

TEST_CASE("the log goes to the callback, from the level asked for", "[runtime]") {
  FakeMachine machine;
  std::vector<std::pair<int, std::string>> lines;
  kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
  options.log_user = &lines;
  options.log_callback = [](int32_t level, const char* message, void* user) {
    static_cast<std::vector<std::pair<int, std::string>>*>(user)->emplace_back(level, message);
  };
  const auto build = [&](int level) {
    options.log_level = level;
    const EngineHandle engine = make_engine(machine, options);
    REQUIRE(kiln_plan_prepare(make_plan(engine).get(), 1, 1) == KILN_OK);
  };
  build(KILN_LOG_WARNING);
  CHECK(lines.empty());
  build(KILN_LOG_INFO);
  REQUIRE(lines.size() == 1);  // one line per build
  CHECK(lines[0].first == KILN_LOG_INFO);
  for (const char* part :
       {"compiled dense 1d2d n=512 k=1024", "100 registers", "default choice", "ms"}) {
    CHECK(lines[0].second.find(part) != std::string::npos);
  }
}

TEST_CASE("a plan keeps its engine alive", "[runtime]") {
  FakeMachine machine;
  EngineHandle engine = make_engine(machine, quiet_options());
  const PlanHandle plan = make_plan(engine);
  engine.reset();
  const kiln_operands operands = good_operands();
  CHECK(kiln_launch(plan.get(), &operands, nullptr) == KILN_OK);
  CHECK(machine.cuda.retained_contexts == 1);
}

TEST_CASE("a missing driver, a broken one and an old one each say so", "[runtime]") {
  FakeMachine machine;
  const kiln_engine_options options = quiet_options();
  kiln_engine* engine = nullptr;
  runtime::EngineHooks hooks = machine.hooks();
  hooks.driver_library = "libkiln-no-such-driver.so.1";
  CHECK(runtime::create_engine(&options, {}, hooks, &engine) == KILN_ERROR_NO_DRIVER);
  CHECK(error_mentions("libkiln-no-such-driver.so.1 was not found"));
  CHECK(error_mentions("KILN_DEVICE_NONE"));
  hooks.driver_library = "libc.so.6";  // a library, but no driver
  CHECK(runtime::create_engine(&options, {}, hooks, &engine) == KILN_ERROR_NO_DRIVER);
  CHECK(error_mentions("lacks cuInit"));
  machine.cuda.init_result = CUDA_ERROR_NO_DEVICE;
  CHECK(create(machine, options) == KILN_ERROR_NO_DEVICE);
  machine.cuda.init_result = CUDA_ERROR_INVALID_CONTEXT;
  CHECK(create(machine, options) == KILN_ERROR_NO_DRIVER);
  CHECK(error_mentions("cuInit"));
  machine.cuda.init_result = CUDA_SUCCESS;
  machine.cuda.driver_version = 11080;
  CHECK(create(machine, options) == KILN_ERROR_NO_DRIVER);
  CHECK(error_mentions("is for CUDA 11.8"));
  machine.cuda.driver_version = 12040;
  CHECK(create(machine, options) == KILN_OK);
}

TEST_CASE("a GPU that is not Hopper is unsupported, by ordinal and as the current device",
          "[runtime]") {
  FakeMachine machine;
  machine.cuda.device_count = 2;
  machine.cuda.devices[0] = {"Fake B200", 10, 0, 148};
  CHECK(create(machine, quiet_options(0)) == KILN_ERROR_UNSUPPORTED);
  CHECK(error_mentions("device 0 is Fake B200 (sm_100)"));
  fake_set_current_context(fake_primary_context(0));
  CHECK(create(machine, quiet_options(KILN_DEVICE_CURRENT)) == KILN_ERROR_UNSUPPORTED);
  CHECK(create(machine, quiet_options(1)) == KILN_OK);
  CHECK(machine.cuda.retained_contexts == 0);
}

TEST_CASE("an engine of the current context uses that context and never retains one", "[runtime]") {
  FakeMachine machine;
  machine.cuda.device_count = 2;
  CHECK(create(machine, quiet_options(KILN_DEVICE_CURRENT)) == KILN_ERROR_NO_DEVICE);
  CHECK(error_mentions("no CUDA context is current"));
  fake_set_current_context(fake_primary_context(1));
  const EngineHandle engine = make_engine(machine, quiet_options(KILN_DEVICE_CURRENT));
  CHECK(runtime::engine_of(engine.get()).device().info().ordinal == 1);
  CHECK(machine.cuda.retained_contexts == 0);
  const PlanHandle plan = make_plan(engine);
  const kiln_operands operands = good_operands();
  fake_set_current_context(fake_primary_context(0));  // of another device
  CHECK(kiln_launch(plan.get(), &operands, nullptr) == KILN_OK);
  CHECK(fake_current_context() == fake_primary_context(0));
}

TEST_CASE("two engines on two devices each load and launch in their own context", "[runtime]") {
  FakeMachine machine;
  machine.cuda.device_count = 2;
  const EngineHandle engines[] = {make_engine(machine, quiet_options(0)),
                                  make_engine(machine, quiet_options(1))};
  const PlanHandle plans[] = {make_plan(engines[0]), make_plan(engines[1])};
  const kiln_operands operands = good_operands();
  for (int round = 0; round < 3; ++round) {
    for (const PlanHandle& plan : plans)
      CHECK(kiln_launch(plan.get(), &operands, nullptr) == KILN_OK);
  }
  CHECK(machine.cuda.loaded_libraries == 2);
  CHECK(machine.cuda.launches == 6);
}

TEST_CASE("cache statistics count hits, misses, compiles and loads", "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  kiln_engine_options options = quiet_options();
  options.cache_dir = dir.path().c_str();
  {
    const EngineHandle cold = make_engine(machine, options);
    REQUIRE(kiln_plan_prepare(make_plan(cold).get(), 0, INT64_MAX) == KILN_OK);
    const kiln_cache_statistics s = stats_of(cold);
    CHECK(s.state == KILN_CACHE_USABLE);
    CHECK(std::string(s.message).empty());
    CHECK((s.hits == 0 && s.misses > 0));
    CHECK((s.compiles == s.misses && s.loads == s.misses && s.published == s.misses));
  }
  const EngineHandle warm = make_engine(machine, options);
  REQUIRE(kiln_plan_prepare(make_plan(warm).get(), 0, INT64_MAX) == KILN_OK);
  const kiln_cache_statistics s = stats_of(warm);
  CHECK((s.hits > 0 && s.misses == 0 && s.compiles == 0 && s.loads == s.hits));
}

TEST_CASE("probing reports what is there and what is missing, and fails for neither", "[runtime]") {
  FakeMachine machine;
  kiln_probe_report report = KILN_PROBE_REPORT_INIT;
  REQUIRE(runtime::probe(nullptr, {}, machine.hooks(), &report) == KILN_OK);
  CHECK((report.has_driver == 1 && report.driver_version == 13000 && report.device_count == 1));
  CHECK((report.hopper_device == 0 && report.hopper_num_sms == 132));
  CHECK(std::string(report.device_name) == "Fake H200");
  CHECK(std::string(report.driver_path) == fake_cuda_path());
  CHECK(report.has_compiler == 1);

  machine.cuda.device_count = 2;
  machine.cuda.devices[0] = {"Fake A100", 8, 0, 108};
  REQUIRE(runtime::probe(nullptr, {}, machine.hooks(), &report) == KILN_OK);
  CHECK(report.hopper_device == 1);
  machine.cuda.device_count = 1;
  REQUIRE(runtime::probe(nullptr, {}, machine.hooks(), &report) == KILN_OK);
  CHECK(report.hopper_device == -1);
  CHECK(std::string(report.device_message).find("Fake A100 (sm_80)") != std::string::npos);

  machine.toolchain->available = false;
  runtime::EngineHooks hooks = machine.hooks();
  hooks.driver_library = "libkiln-no-such-driver.so.1";
  REQUIRE(runtime::probe(nullptr, {}, hooks, &report) == KILN_OK);
  CHECK((report.has_driver == 0 && report.has_compiler == 0 && report.hopper_device == -1));
  CHECK(std::string(report.compiler_message) == "the fake compiler is away");
  CHECK(std::string(report.driver_message).find("was not found") != std::string::npos);
}

TEST_CASE("a forked child is turned away at once and may destroy what it inherited", "[runtime]") {
  FakeMachine machine;
  EngineHandle engine = make_engine(machine, quiet_options());
  PlanHandle plan = make_plan(engine);
  REQUIRE(kiln_plan_prepare(plan.get(), 0, INT64_MAX) == KILN_OK);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(10);  // a hang fails, too
    const int calls = machine.cuda.calls();
    const kiln_operands operands = good_operands();
    const kiln_engine_options options = quiet_options();
    kiln_engine* own = nullptr;
    kiln_cache_statistics statistics = KILN_CACHE_STATISTICS_INIT;
    bool good = kiln_launch(plan.get(), &operands, nullptr) == KILN_ERROR_FORKED;
    good = good && kiln_plan_prepare(plan.get(), 0, 1) == KILN_ERROR_FORKED;
    good = good && kiln_cache_stats(engine.get(), &statistics) == KILN_ERROR_FORKED;
    good = good && runtime::create_engine(&options, {}, machine.hooks(), &own) == KILN_ERROR_FORKED;
    good = good && error_mentions("forked");
    kiln_plan_destroy(plan.release());
    kiln_engine_destroy(engine.release());
    good = good && machine.cuda.calls() == calls;
    _exit(good ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  CHECK(kiln_plan_prepare(plan.get(), 0, 1) == KILN_OK);  // the parent is as before
}

}  // namespace kiln::test

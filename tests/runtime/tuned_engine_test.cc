// Engines with tuned tables, through the C boundary.
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "runtime/options.h"
#include "tests/runtime/tuned_support.h"

namespace kiln::test {

namespace {

void write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

struct TunedFixture {
  explicit TunedFixture(TunedEntry builtin = entry())
      : builtin_text(runtime::to_text(file_of({std::move(builtin)}))) {}

  // Through the C boundary: `field` is tuned_path, `variable` KILN_TUNED.
  EngineHandle engine(const char* field, std::optional<std::string> variable = {},
                      std::int32_t num_sms = 132) {
    kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
    options.num_sms = num_sms;
    options.tuned_path = field;
    options.log_level = KILN_LOG_WARNING;
    options.log_callback = [](std::int32_t, const char* message, void* user) {
      static_cast<std::vector<std::string>*>(user)->push_back(message);
    };
    options.log_user = &warnings;
    runtime::Environment environment;
    environment.tuned = std::move(variable);
    runtime::EngineHooks hooks = machine.hooks();
    hooks.tuned_text = builtin_text;
    kiln_engine* handle = nullptr;
    REQUIRE(runtime::create_engine(&options, environment, hooks, &handle) == KILN_OK);
    return EngineHandle(handle);
  }

  static kiln_plan_description describe(const EngineHandle& engine, std::int64_t m = 1,
                                        std::int64_t n = 4096, std::int32_t batch_invariant = 0,
                                        const kiln_tile* tile = nullptr) {
    kiln_problem problem = KILN_PROBLEM_INIT;
    problem.n = n;
    problem.k = 7168;
    problem.batch_invariant = batch_invariant;
    const PlanHandle plan = make_plan(engine, problem, tile);
    kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
    REQUIRE(kiln_plan_describe(plan.get(), m, &description) == KILN_OK);
    return description;
  }

  std::string write_table(const std::string& name, int stages) {
    TunedEntry e = entry();
    e.intervals[0].tile.stages = stages;
    write(dir / name, runtime::to_text(file_of({e})));
    return dir / name;
  }

  FakeMachine machine;
  TempDir dir;
  std::string builtin_text;
  std::vector<std::string> warnings;
};

}  // namespace

TEST_CASE("a plan describes the tuned tile, how well it matches and whose it is", "[tuned]") {
  TunedFixture f;
  const EngineHandle engine = f.engine("");
  const kiln_plan_description exact = f.describe(engine);
  CHECK(exact.source == 2);
  CHECK(exact.tile.block_m == 64);
  CHECK(exact.m_max == 64);
  CHECK(contains(exact.reason, "is tuned for M in [0, 64] on 132 SMs: exact entry n=4096 k=7168"));
  CHECK(contains(exact.reason, "built-in table"));
  const kiln_plan_description near = f.describe(engine, 1, 4104);
  CHECK(near.source == 3);
  CHECK(contains(near.reason, "nearest entry n=4096"));
  const kiln_plan_description none = f.describe(engine, 1, 1024);
  CHECK(none.source == 0);
  CHECK(contains(none.reason, "default choice"));
  CHECK(contains(none.reason, "no tuned entry"));
  const kiln_tile own = KILN_TILE_INIT;
  CHECK(f.describe(engine, 1, 4096, 0, &own).source == 1);
  const kiln_plan_description fixed = f.describe(engine, 1, 4096, 1);
  CHECK(fixed.source == 2);
  CHECK(fixed.tile.block_m == 128);
  CHECK(fixed.m_max == jit::kMaxM);
  CHECK(contains(fixed.reason, "batch_invariant"));
  CHECK(f.warnings.empty());
}

TEST_CASE("user tables go before the built-in one, and the option before KILN_TUNED", "[tuned]") {
  TunedFixture f;
  const std::string five = f.write_table("5.json", 5), six = f.write_table("6.json", 6);
  CHECK(f.describe(f.engine(nullptr)).tile.stages == 8);
  CHECK(f.describe(f.engine(nullptr, five)).tile.stages == 5);
  CHECK(f.describe(f.engine(nullptr, five + ":" + six)).tile.stages == 5);
  CHECK(f.describe(f.engine(nullptr, ":" + six + "::" + five)).tile.stages == 6);
  CHECK(f.describe(f.engine(six.c_str(), five)).tile.stages == 6);
  CHECK(f.describe(f.engine("", five)).tile.stages == 8);
  CHECK(f.describe(f.engine("off", five)).source == 0);
  CHECK(f.describe(f.engine(nullptr, "off")).source == 0);
  CHECK(contains(f.describe(f.engine(five.c_str())).reason, "5.json"));
  CHECK(f.warnings.empty());
}

TEST_CASE("a tuned file that cannot be used is one warning, and the others serve", "[tuned]") {
  TunedFixture f;
  const std::string six = f.write_table("6.json", 6);
  const std::string good = runtime::to_text(file_of({entry()}));
  const std::string bad = f.dir / "bad.json";
  const auto stages_with = [&](const std::string& text, std::int32_t num_sms = 132) {
    write(bad, text);
    f.warnings.clear();
    return f.describe(f.engine((bad + ":" + six).c_str(), {}, num_sms)).tile.stages;
  };
  for (const std::string& text :
       {std::string(), good.substr(0, good.size() / 2), std::string("\0\0\0", 3),
        replaced(good, "\"format\": 1", "\"format\": 7"),
        replaced(good, "\"num_sms\":132", "\"num_sms\":78"),
        replaced(good, "\"layout\"", "\"lay\\nout\"")}) {
    INFO(text);
    CHECK(stages_with(text) == 6);
    REQUIRE(f.warnings.size() == 1);
    CHECK(contains(f.warnings[0], "tuned tiles: "));
    CHECK(contains(f.warnings[0], "bad.json"));
    CHECK(contains(f.warnings[0], "ignored"));
  }
  f.warnings.clear();
  CHECK(f.describe(f.engine((f.dir.path() + ":/no/such/file:" + six).c_str())).tile.stages == 6);
  CHECK(f.warnings.size() == 2);  // a directory, and nothing
}

TEST_CASE("the built-in table is for its GPU alone, without a word on others", "[tuned]") {
  TunedFixture f;
  CHECK(f.describe(f.engine("", {}, 78)).source == 0);
  CHECK(f.warnings.empty());
}

TEST_CASE("a launch of an older program has no batch_invariant and no tuned_path", "[tuned]") {
  TunedFixture f;
  kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
  options.tuned_path = reinterpret_cast<const char*>(1);  // behind its size: must not be read
  options.struct_size = offsetof(kiln_engine_options, tuned_path);
  const EngineHandle engine = make_engine(f.machine, options);
  kiln_problem problem = small_problem();
  problem.struct_size = offsetof(kiln_problem, batch_invariant);
  problem.batch_invariant = problem.reserved = 7;
  CHECK(make_plan(engine, problem) != nullptr);
  problem.struct_size = sizeof(problem);
  kiln_plan* plan = nullptr;
  CHECK(kiln_plan_create(engine.get(), &problem, nullptr, &plan) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("batch_invariant must be 0 or 1, got 7"));
  problem.batch_invariant = 1;
  CHECK(kiln_plan_create(engine.get(), &problem, nullptr, &plan) == KILN_ERROR_INVALID_ARGUMENT);
  CHECK(error_mentions("reserved must be 0, got 7"));
}

}  // namespace kiln::test

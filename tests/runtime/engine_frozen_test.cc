// Freezing a running engine, what the counters say, and the log's line for each compile.
#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/runtime/launch_support.h"

namespace kiln::test {
namespace {

struct Lines {
  std::mutex mutex;
  std::vector<std::string> all;
};

kiln_engine_options logged(Lines* lines, const std::string& directory, int device = 0) {
  kiln_engine_options options = quiet_options(device);
  options.cache_dir = directory.c_str();
  options.log_level = KILN_LOG_INFO;
  options.log_user = lines;
  options.log_callback = [](int32_t, const char* message, void* user) {
    auto* to = static_cast<Lines*>(user);
    const std::lock_guard lock(to->mutex);
    to->all.emplace_back(message);
  };
  return options;
}

kiln_cache_statistics stats_of(const EngineHandle& engine) {
  kiln_cache_statistics statistics = KILN_CACHE_STATISTICS_INIT;
  REQUIRE(kiln_cache_stats(engine.get(), &statistics) == KILN_OK);
  return statistics;
}

kiln_problem problem_of(std::int64_t k) {
  kiln_problem problem = small_problem();
  problem.k = k;
  return problem;
}

std::string key_of(const PlanHandle& plan) {
  kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
  REQUIRE(kiln_plan_describe(plan.get(), 1, &description) == KILN_OK);
  return description.key;
}

// Everything that a plan of this K can need, compiled into the directory.
void warm(const FakeMachine& machine, const std::string& directory, std::int64_t k) {
  kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
  options.cache_dir = directory.c_str();
  const EngineHandle engine = make_engine(machine, options);
  REQUIRE(kiln_plan_prepare(make_plan(engine, problem_of(k)).get(), 0, INT64_MAX) == KILN_OK);
}

void damage_all(const std::string& directory) {
  for (const auto& item : std::filesystem::recursive_directory_iterator(directory)) {
    if (item.path().extension() != ".kiln") continue;
    std::fstream file(item.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(300);
    file.put('\x55');
  }
}

}  // namespace

TEST_CASE("a frozen engine uses what is loaded and on disk, and names the key of anything else",
          "[runtime][frozen]") {
  FakeMachine machine;
  const TempDir dir;
  warm(machine, dir.path(), 512);
  machine.toolchain->compiles = 0;
  kiln_engine_options options = quiet_options();
  options.cache_dir = dir.path().c_str();
  const EngineHandle engine = make_engine(machine, options);
  const PlanHandle loaded = make_plan(engine, problem_of(1024));
  REQUIRE(kiln_plan_prepare(loaded.get(), 1, 1) == KILN_OK);
  CHECK(stats_of(engine).frozen == 0);
  REQUIRE(kiln_engine_freeze(engine.get()) == KILN_OK);
  REQUIRE(kiln_engine_freeze(engine.get()) == KILN_OK);
  CHECK(stats_of(engine).frozen == 1);
  CHECK(machine.toolchain->compiles == 1);

  const PlanHandle on_disk = make_plan(engine, problem_of(512));
  const PlanHandle nowhere = make_plan(engine, problem_of(768));
  const kiln_operands operands = good_operands(1);
  CHECK(kiln_launch(loaded.get(), &operands, kStream) == KILN_OK);
  CHECK(kiln_launch(on_disk.get(), &operands, kStream) == KILN_OK);
  CHECK(kiln_launch(nowhere.get(), &operands, kStream) == KILN_ERROR_FROZEN);
  CHECK(error_mentions(key_of(nowhere)));
  CHECK(error_mentions("kiln warm"));
  CHECK(error_mentions("kiln cache import"));
  CHECK(kiln_plan_prepare(nowhere.get(), 0, 1) == KILN_ERROR_FROZEN);
  CHECK(machine.toolchain->compiles == 1);
  CHECK(kiln_engine_freeze(nullptr) == KILN_ERROR_INVALID_ARGUMENT);
}

TEST_CASE("freezing while other threads prepare ends every compile that begins later",
          "[runtime][frozen]") {
  FakeMachine machine;
  machine.toolchain->delay_ms = 1;
  const EngineHandle engine = make_engine(machine, quiet_options());
  std::vector<PlanHandle> plans;
  for (int i = 1; i <= 64; ++i) plans.push_back(make_plan(engine, problem_of(128 * i)));
  std::atomic<int> wrong{0}, frozen{0};
  std::vector<std::thread> threads;
  for (int id = 0; id < 4; ++id) {
    threads.emplace_back([&, id] {
      for (std::size_t i = static_cast<std::size_t>(id); i < plans.size(); i += 4) {
        const kiln_status status = kiln_plan_prepare(plans[i].get(), 1, 1);
        wrong += status != KILN_OK && status != KILN_ERROR_FROZEN;
        frozen += status == KILN_ERROR_FROZEN;
      }
    });
  }
  while (machine.toolchain->compiles < 4) std::this_thread::yield();
  REQUIRE(kiln_engine_freeze(engine.get()) == KILN_OK);
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(frozen > 0);
  CHECK(machine.toolchain->compiles + frozen == 64);
}

TEST_CASE("hits are counted by where they came from", "[runtime][frozen]") {
  FakeMachine machine;
  const TempDir system, site, own;
  warm(machine, system.path(), 512);
  warm(machine, site.path(), 768);
  warm(machine, own.path(), 1024);
  const std::string missing = own / "missing";
  const std::string path = system.path() + ":" + missing + ":" + site.path();
  kiln_engine_options options = quiet_options();
  options.cache_dir = own.path().c_str();
  options.cache_path = path.c_str();
  options.miss_policy = KILN_MISS_FROZEN;
  const EngineHandle engine = make_engine(machine, options);
  for (const std::int64_t k : {512, 768, 1024})
    REQUIRE(kiln_plan_prepare(make_plan(engine, problem_of(k)).get(), 1, 1) == KILN_OK);
  kiln_cache_statistics stats = stats_of(engine);
  CHECK(stats.layer_hits[0] == 1);
  CHECK(stats.layer_hits[1] == 0);  // it cannot be opened, and keeps its place
  CHECK(stats.layer_hits[2] == 1);
  CHECK(stats.directory_hits == 1);
  CHECK(stats.hits == 3);
  CHECK(stats.misses == 0);
  CHECK(stats.memory_hits == 0);
  REQUIRE(kiln_plan_prepare(make_plan(engine, problem_of(512)).get(), 1, 1) == KILN_OK);
  const kiln_operands operands = good_operands(1);
  CHECK(kiln_launch(make_plan(engine, problem_of(768)).get(), &operands, kStream) == KILN_OK);
  stats = stats_of(engine);
  CHECK(stats.memory_hits == 2);
  CHECK(stats.hits == 3);
}

TEST_CASE("each compile is one line with its key and why the cache did not have the kernel",
          "[runtime][frozen]") {
  FakeMachine machine;
  const TempDir dir;
  Lines lines;
  std::string directory = dir.path();
  const auto one_line = [&](const std::string& reason) {
    const EngineHandle engine = make_engine(machine, logged(&lines, directory, KILN_DEVICE_NONE));
    const PlanHandle plan = make_plan(engine);
    lines.all.clear();
    REQUIRE(kiln_plan_prepare(plan.get(), 1, 1) == KILN_OK);
    REQUIRE_FALSE(lines.all.empty());
    const std::string& line = lines.all.back();
    INFO(line);
    CHECK(line.find("compiled dense") == 0);
    CHECK(line.find("(not from the cache: " + reason + ")") != std::string::npos);
    CHECK(line.find("key " + key_of(plan)) != std::string::npos);
    return stats_of(engine);
  };
  CHECK(one_line("it is absent").miss_absent >= 1);
  machine.toolchain->fingerprint = "fake 1.3 build=def";
  CHECK(one_line("only another toolchain's is there").miss_other_toolchain == 1);
  damage_all(dir.path());
  CHECK(one_line("its checksum does not match").miss_checksum == 1);
  directory = dir / "open";
  std::filesystem::create_directory(directory);
  std::filesystem::permissions(directory, std::filesystem::perms::all);
  one_line("the cache directory is untrusted");
  directory = "";
  one_line("the cache directory is disabled");
}

TEST_CASE("a compile after a refused load says so", "[runtime][frozen]") {
  FakeMachine machine;
  const TempDir dir;
  warm(machine, dir.path(), 1024);
  Lines lines;
  const std::string directory = dir.path();
  const EngineHandle engine = make_engine(machine, logged(&lines, directory));
  machine.cuda.failing_loads = 1;
  REQUIRE(kiln_plan_prepare(make_plan(engine).get(), 1, 1) == KILN_OK);
  CHECK(lines.all.back().find("(not from the cache: the driver refused the copy on disk)") !=
        std::string::npos);
}

TEST_CASE("an older caller's smaller options and statistics still work", "[runtime][frozen]") {
  FakeMachine machine;
  kiln_engine_options options = quiet_options();
  options.struct_size = offsetof(kiln_engine_options, background_jobs);
  options.background_jobs = 1000;  // behind what the caller has
  const EngineHandle engine = make_engine(machine, options);
  kiln_cache_statistics statistics = KILN_CACHE_STATISTICS_INIT;
  statistics.struct_size = offsetof(kiln_cache_statistics, memory_hits);
  statistics.memory_hits = 77;
  REQUIRE(kiln_cache_stats(engine.get(), &statistics) == KILN_OK);
  CHECK(statistics.memory_hits == 77);
}

}  // namespace kiln::test

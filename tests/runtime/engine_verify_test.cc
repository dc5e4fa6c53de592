// The verify mode: what is found on disk is compiled all the same, and has to be equal.
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "cache/disk_cache.h"
#include "runtime/verify.h"
#include "tests/runtime/launch_support.h"

namespace kiln::test {
namespace {

struct Lines {
  std::mutex mutex;
  std::vector<std::string> all;
};

EngineHandle verifying_engine(const FakeMachine& machine, const std::string& directory,
                              Lines* lines, const char* layers = "",
                              std::int32_t policy = KILN_MISS_BLOCK) {
  kiln_engine_options options = quiet_options();
  options.cache_dir = directory.c_str();
  options.cache_path = layers;
  options.miss_policy = policy;
  options.verify = KILN_VERIFY_ON;
  options.log_level = KILN_LOG_WARNING;
  options.log_user = lines;
  options.log_callback = [](int32_t, const char* message, void* user) {
    auto* to = static_cast<Lines*>(user);
    const std::lock_guard lock(to->mutex);
    to->all.emplace_back(message);
  };
  return make_engine(machine, options);
}

kiln_cache_statistics stats_of(const EngineHandle& engine) {
  kiln_cache_statistics statistics = KILN_CACHE_STATISTICS_INIT;
  REQUIRE(kiln_cache_stats(engine.get(), &statistics) == KILN_OK);
  return statistics;
}

kiln_status prepare(const EngineHandle& engine) {
  return kiln_plan_prepare(make_plan(engine).get(), 1, 1);
}

// One kernel, compiled into the directory by an engine without a device.
void warm(const FakeMachine& machine, const std::string& directory) {
  kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
  options.cache_dir = directory.c_str();
  const EngineHandle engine = make_engine(machine, options);
  REQUIRE(kiln_plan_prepare(make_plan(engine).get(), 0, INT64_MAX) == KILN_OK);
}

cache::Entry some_entry() {
  cache::Entry entry;
  entry.key_text = "inputs";
  entry.key = cache::sha256(entry.key_text);
  entry.description = "a kernel of this test";
  entry.kernel_name = "kernel";
  entry.threads = 384;
  entry.cluster = 2;
  entry.registers = 168;
  entry.dynamic_smem_bytes = 200'000;
  entry.param_bytes = 640;
  entry.cubin = {std::byte{1}, std::byte{2}};
  entry.source = "text";
  return entry;
}

}  // namespace

TEST_CASE("a verifying engine compiles what it finds, once, and keeps an equal hit",
          "[runtime][verify][C8]") {
  FakeMachine machine;
  const TempDir dir;
  warm(machine, dir.path());
  machine.toolchain->compiles = 0;
  Lines lines;
  const EngineHandle engine = verifying_engine(machine, dir.path(), &lines);
  REQUIRE(prepare(engine) == KILN_OK);
  REQUIRE(prepare(engine) == KILN_OK);
  const kiln_cache_statistics statistics = stats_of(engine);
  CHECK(statistics.hits == 1);
  CHECK(statistics.verified == 1);
  CHECK(statistics.verify_mismatches == 0);
  CHECK(machine.toolchain->compiles == 1);
  CHECK(statistics.published == 0);
  CHECK(lines.all.empty());
  kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
  REQUIRE(kiln_plan_describe(make_plan(engine).get(), 1, &description) == KILN_OK);
  CHECK(description.from_disk == 1);
}

TEST_CASE("a hit that is not what its key compiles to is a warning, and is replaced",
          "[runtime][verify][C8]") {
  FakeMachine machine;
  const TempDir dir;
  const bool in_layer = GENERATE(false, true);
  CAPTURE(in_layer);
  const std::string layer = dir / "layer";
  const std::string mine = dir / "mine";
  warm(machine, in_layer ? layer : mine);
  // The same fingerprint, and yet other code: what the key would have to have named.
  machine.toolchain->cubin_bytes = 5000;
  Lines lines;
  {
    const EngineHandle engine =
        verifying_engine(machine, mine, &lines, in_layer ? layer.c_str() : "");
    REQUIRE(prepare(engine) == KILN_OK);
    const kiln_cache_statistics statistics = stats_of(engine);
    CHECK(statistics.verified == 1);
    CHECK(statistics.verify_mismatches == 1);
    CHECK(statistics.published == 1);
    kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
    REQUIRE(kiln_plan_describe(make_plan(engine).get(), 1, &description) == KILN_OK);
    CHECK(description.from_disk == 0);
    CHECK(description.cubin_bytes == 5000);
    REQUIRE(lines.all.size() == 1);
    CHECK(lines.all[0].find(description.key) != std::string::npos);
    CHECK(lines.all[0].find("is not what its key compiles to: cubin: ") != std::string::npos);
    CHECK(lines.all[0].find("5000 bytes with SHA-256 ") != std::string::npos);
  }
  // What is stored now is right: the next engine agrees with it. A layer is never written.
  const EngineHandle next = verifying_engine(machine, mine, &lines);
  REQUIRE(prepare(next) == KILN_OK);
  CHECK(stats_of(next).verified == 1);
  CHECK(stats_of(next).verify_mismatches == 0);
}

TEST_CASE("where nothing can be compiled a verifying engine uses what it finds",
          "[runtime][verify]") {
  FakeMachine machine;
  const TempDir dir;
  warm(machine, dir.path());
  machine.toolchain->compiles = 0;
  Lines lines;
  SECTION("frozen") {
    const EngineHandle engine = verifying_engine(machine, dir.path(), &lines, "", KILN_MISS_FROZEN);
    CHECK(prepare(engine) == KILN_OK);
    CHECK(stats_of(engine).verified == 0);
    CHECK(lines.all.empty());
  }
  SECTION("without a compiler") {
    machine.toolchain->available = false;
    const EngineHandle engine = verifying_engine(machine, dir.path(), &lines);
    CHECK(prepare(engine) == KILN_OK);
    CHECK(stats_of(engine).verified == 0);
    CHECK(lines.all.empty());
  }
  SECTION("with a compile that fails") {
    machine.toolchain->fails = true;
    const EngineHandle engine = verifying_engine(machine, dir.path(), &lines);
    CHECK(prepare(engine) == KILN_OK);
    CHECK(stats_of(engine).verified == 0);
    REQUIRE(lines.all.size() == 1);
    CHECK(lines.all[0].find("could not be verified and is used: ") != std::string::npos);
  }
  CHECK(machine.toolchain->compiles <= 1);
}

TEST_CASE("verifying compares all that a launch uses, and nothing that may differ",
          "[runtime][verify]") {
  using cache::Entry;
  const Entry stored = some_entry();
  const auto mismatch = [&](const std::function<void(Entry&)>& change) {
    Entry compiled = stored;
    change(compiled);
    return runtime::describe_mismatch(stored, compiled);
  };
  CHECK(mismatch([](Entry&) {}).empty());
  CHECK(mismatch([](Entry& e) { e.created_unix_s = 5, e.compile_us = 6, e.log = "x"; }).empty());
  const std::vector<std::function<void(Entry&)>> changes = {
      [](Entry& e) { e.cubin.back() = std::byte{3}; },
      [](Entry& e) { e.cubin.push_back(std::byte{0}); },
      [](Entry& e) { e.kernel_name += "x"; },
      [](Entry& e) { e.key_text += "x"; },
      [](Entry& e) { e.source += "x"; },
      [](Entry& e) { ++e.threads; },
      [](Entry& e) { ++e.cluster; },
      [](Entry& e) { ++e.dynamic_smem_bytes; },
      [](Entry& e) { ++e.param_bytes; },
      [](Entry& e) { ++e.registers; },
      [](Entry& e) { ++e.spill_store_bytes; },
      [](Entry& e) { ++e.spill_load_bytes; },
      [](Entry& e) { ++e.stack_bytes; },
      [](Entry& e) { ++e.static_smem_bytes; },
  };
  for (const auto& change : changes) {
    const std::string text = mismatch(change);
    CHECK(text.find(cache::to_hex(stored.key)) != std::string::npos);
  }
  CHECK(mismatch(changes[9]).find("registers: 168 stored, 169 compiled") != std::string::npos);
}

}  // namespace kiln::test

// Processes that are killed, and computers that lose their power: every entry is whole or absent
// afterwards, nothing waits, and nobody has to clean up.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>

#include "hooked_files.h"
#include "power_loss.h"
#include "scenarios.h"
#include "support.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

namespace kiln::cache::test {
namespace {

using kiln::test::by_scale;
using kiln::test::report_figures;
using kiln::test::with_commas;
using Clock = std::chrono::steady_clock;

constexpr int kKilled = 1000 + SIGKILL;

// Forking a sanitized program is slow, and these are not what a sanitizer looks for.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kEvery = 13;
const std::string kCalls = "each 13th system call";
#else
constexpr int kEvery = 1;
const std::string kCalls = "every system call";
#endif

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Ends its process before or after the call of a number, counted from 1; 0: counts only.
struct Killer final : CallHook {
  explicit Killer(int number, bool after_it = false) : at(number), after_call(after_it) {}
  int before(const Call&) override {
    ++calls;
    if (!after_call && calls == at) ::kill(::getpid(), SIGKILL);
    return 0;
  }
  int after(const Call&, bool) override {
    if (after_call && calls == at) ::kill(::getpid(), SIGKILL);
    return 0;
  }
  const int at;
  const bool after_call;
  int calls = 0;
};

int count_calls(const Scenario& scenario) {
  TempDir dir(TempDir::Where::kInMemory);
  scenario.prepare(dir / "cache");
  Killer counter(0);
  call_hook = &counter;
  const bool right = scenario.run(dir / "cache", hooked_files());
  call_hook = nullptr;
  REQUIRE(right);
  return counter.calls;
}

// What a killed process left in tmp/ goes when it is an hour old, and nothing else does.
std::string what_is_wrong_with_sweeping(const std::string& root) {
  DiskCache cache(options_for(root));
  const std::size_t entries = cache.list().size();
  for (const std::string& name : names_in(root + "/v1/tmp"))
    set_age(root + "/v1/tmp/" + name, 4000);
  cache.prune(~std::uint64_t{0});
  if (!names_in(root + "/v1/tmp").empty()) return "temporary files are left after the sweep";
  return cache.list().size() == entries ? "" : "the sweep took entries";
}

// One of 32 processes on 256 keys; it goes on until it is killed or something is wrong.
int publish_and_look_for_ever(const std::string& root, std::uint64_t seed) {
  Options options = options_for(root);
  options.fsync = true;
  options.max_bytes = 2'000'000;  // eviction takes part: the entries are made old at random
  DiskCache cache(options);
  Random random(seed);
  for (;;) {
    const std::uint64_t key = 1000 + random.below(256);
    const Entry entry = sample_entry(key, 10'000 + key % 3 * 10'000);
    const KeyLock lock = cache.lock(entry.key, 5);
    const auto found = cache.lookup(entry.key, entry.toolchain);
    if (found && *found != entry) return 1;
    if (!found && !cache.publish(entry)) return 2;
    std::error_code ignored;
    if (random.below(4) == 0) {
      std::filesystem::last_write_time(
          entry_file(root, entry.key),
          std::filesystem::file_time_type::clock::now() - std::chrono::minutes(10), ignored);
    }
  }
}

}  // namespace

TEST_CASE("a process killed before or after any system call leaves a cache that works",
          "[cache][crash][C3]") {
  int kills = 0;
  for (const Scenario& scenario : scenarios()) {
    const int last = count_calls(scenario);
    REQUIRE(last > 10);
    for (int at = 1; at <= last; at += kEvery) {
      for (const bool after : {false, true}) {
        TempDir dir(TempDir::Where::kInMemory);
        const std::string root = dir / "cache";
        scenario.prepare(root);
        const int status = in_child([&] {
          Killer killer(at, after);
          call_hook = &killer;
          return scenario.run(root, hooked_files()) ? 0 : 1;
        });
        INFO(scenario.name << ", call " << at << " of " << last
                           << (after ? ", after" : ", before"));
        REQUIRE(status == kKilled);
        ++kills;
        const auto start = Clock::now();
        REQUIRE(what_is_wrong_with(root) == "");
        REQUIRE(what_is_wrong_with_sweeping(root) == "");
        REQUIRE(seconds_since(start) < 1.0);
      }
    }
  }
  report_figures(with_commas(kills) + " kills before and after " + kCalls + " of " +
                 std::to_string(scenarios().size()) + " scenarios, 0 bad entries, 0 hangs");
}

TEST_CASE("processes killed at random moments never leave a bad entry behind",
          "[cache][crash][C3]") {
  TempDir dir;
  const std::string root = dir / "cache";
  const int kills = by_scale(300, 10'000) / kEvery;
  const int processes = by_scale(4, 32);
  REQUIRE(DiskCache(options_for(root)).state() == DirectoryState::kUsable);
  Random random(31);
  const auto start_one = [&] {
    const std::uint64_t seed = random.next();
    return start_child([&root, seed] { return publish_and_look_for_ever(root, seed); });
  };
  std::vector<pid_t> children;
  for (int i = 0; i < processes; ++i) children.push_back(start_one());
  int done = 0;
  const auto end = [&](pid_t child) {
    ::kill(child, SIGKILL);
    REQUIRE(wait_for(child) == kKilled);  // else it saw a wrong entry or could not publish
    ++done;
  };
  while (done < kills) {
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(6000)));
    pid_t& victim = children[random.below(children.size())];
    end(victim);
    victim = start_one();
  }
  for (const pid_t child : children) end(child);

  const std::size_t orphans = names_in(root + "/v1/tmp").size();
  if (kEvery == 1) CHECK(orphans > 0);  // else the kills came at the wrong moments and prove little
  CHECK(DiskCache(options_for(root)).prune(~std::uint64_t{0}).removed_other == 0);  // too young
  const auto start = Clock::now();
  REQUIRE(what_is_wrong_with(root) == "");
  REQUIRE(seconds_since(start) < 1.0);
  REQUIRE(what_is_wrong_with_sweeping(root) == "");
  report_figures(with_commas(done) + " random kills of " + std::to_string(processes) +
                 " processes on 256 keys, 0 bad loads, " + with_commas(orphans) +
                 " orphans, 0 after the sweep");
}

TEST_CASE("a power loss at any system call leaves every entry whole or absent",
          "[cache][crash][C3]") {
  int cuts = 0;
  for (const Scenario& scenario : scenarios()) {
    const int last = count_calls(scenario);
    for (int at = 1; at <= last + 1; at += kEvery) {  // the last one: right after the end
      for (const Loss loss : kLosses) {
        TempDir dir(TempDir::Where::kInMemory);
        const std::string root = dir / "cache";
        scenario.prepare(root);
        PowerLoss power(root, at);
        call_hook = &power;
        const bool right = scenario.run(root, hooked_files());
        call_hook = nullptr;
        INFO(scenario.name << ", call " << at << " of " << last << ", " << name(loss));
        REQUIRE(right);
        power.lose(loss);
        REQUIRE(power.damaged_entries() == 0);
        REQUIRE(what_is_wrong_with(root) == "");
        ++cuts;
      }
    }
  }
  report_figures(with_commas(cuts) +
                 " power losses (unsynced data cut, zeroed or dropped, names dropped), 0 damaged "
                 "entries");
}

TEST_CASE("without fsync a power loss can damage an entry, which is then a miss",
          "[cache][crash][C3]") {
  const Entry& entry = scenario_entry();
  int damaged = 0;
  for (const Loss loss : kLosses) {
    TempDir dir(TempDir::Where::kInMemory);
    const std::string root = dir / "cache";
    PowerLoss power(root, 1'000'000);
    call_hook = &power;
    {
      DiskCache cache(options_for(root), hooked_files());
      REQUIRE(cache.publish(entry));
    }
    call_hook = nullptr;
    power.lose(loss);
    damaged += power.damaged_entries() > 0;
    CAPTURE(name(loss));
    REQUIRE(what_is_wrong_with(root) == "");
  }
  CHECK(damaged >= 2);  // the model does lose what was not synced
}

TEST_CASE("while an entry is replaced its name always has a whole entry", "[cache][replace][C3]") {
  TempDir dir;
  const std::string root = dir / "cache";
  const Scenario& replace = scenario("replace");
  replace.prepare(root);
  struct Watcher final : CallHook {
    int after(const Call& call, bool) override {
      DiskCache reader(options_for(root));
      bad += reader.lookup(scenario_entry().key, scenario_entry().toolchain) != scenario_entry();
      renames += call.name == "renameat";
      return 0;
    }
    std::string root;
    int bad = 0, renames = 0;
  } watcher;
  watcher.root = root;
  call_hook = &watcher;
  const bool right = replace.run(root, hooked_files());
  call_hook = nullptr;
  CHECK(right);
  CHECK(watcher.renames == 1);
  CHECK(watcher.bad == 0);
}

}  // namespace kiln::cache::test

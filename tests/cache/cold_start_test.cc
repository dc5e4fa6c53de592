// Many processes start at once on an empty cache, as the ranks of a job do.
#include <signal.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "engine_support.h"
#include "hooked_files.h"
#include "tests/support/catch.h"
#include "tests/support/gate.h"

namespace kiln::cache::test {
namespace {

using kiln::test::by_scale;
using kiln::test::is_full_scale;
using kiln::test::report_figures;
using kiln::test::with_commas;

Crowd full_crowd() {
  Crowd crowd;
  crowd.processes = by_scale(8, 64);
  crowd.keys = by_scale(16, 64);
  crowd.compile_ms = by_scale(10, 50);
  return crowd;
}

int rounds() { return by_scale(2, 20); }

std::string words(const Crowd& crowd, int rounds) {
  return std::to_string(crowd.processes) + " processes x " + std::to_string(crowd.keys) +
         " keys x " + std::to_string(rounds) + " rounds";
}

std::string decimals(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}

// A call of this process's table that locks nothing and says that it did.
const Files& files_without_locks() {
  static const Files kFiles = [] {
    Files files = real_files();
    files.flock = [](int, int) { return 0; };
    return files;
  }();
  return kFiles;
}

}  // namespace

TEST_CASE("processes that start cold at once compile every kernel once between them",
          "[contract][C4]") {
  const Crowd crowd = full_crowd();
  int compiles = 0;
  double slowest = 0;
  for (int round = 0; round < rounds(); ++round) {
    TempDir dir;
    const CrowdResult result = run_crowd(dir / "cache", crowd);
    REQUIRE(result.failed_processes == 0);
    compiles += result.compiles;
    slowest = std::max(slowest, result.seconds);
  }
  Crowd alone = crowd;
  alone.processes = 1;
  TempDir dir;
  const double one = run_crowd(dir / "cache", alone).seconds;
  const double per_key = static_cast<double>(compiles) / (crowd.keys * rounds());
  CHECK(per_key >= 1);
  CHECK(per_key <= 1.05);
  report_figures(words(crowd, rounds()) + ": 0 failures, " + decimals(per_key) +
                 " compiles per key, slowest round " + decimals(slowest / one) +
                 " x one process alone");
  if (is_full_scale()) CHECK(slowest <= 1.2 * one);  // a short run measures the start of processes
}

TEST_CASE("processes that start cold where locks lock nothing all succeed", "[contract][C4]") {
  Crowd crowd = full_crowd();
  crowd.files = &files_without_locks();
  int compiles = 0;
  for (int round = 0; round < by_scale(1, 5); ++round) {
    TempDir dir;
    const CrowdResult result = run_crowd(dir / "cache", crowd);
    REQUIRE(result.failed_processes == 0);
    compiles += result.compiles;
  }
  const double per_key = static_cast<double>(compiles) / (crowd.keys * by_scale(1, 5));
  CHECK(per_key <= crowd.processes);
  report_figures("no locks: 0 failures, " + decimals(per_key) + " compiles per key of at most " +
                 std::to_string(crowd.processes));
}

TEST_CASE("processes that start cold while the directory is removed again and again all succeed",
          "[contract][C4]") {
  const Crowd crowd = full_crowd();
  TempDir dir;
  const std::string root = dir / "cache";
  const pid_t remover = start_child([&]() -> int {
    for (;;) {
      std::error_code ignored;
      std::filesystem::remove_all(root, ignored);
      ::usleep(500);
    }
  });
  int failed = 0;
  for (int round = 0; round < by_scale(1, 5); ++round) {
    failed += run_crowd(root, crowd).failed_processes;
  }
  ::kill(remover, SIGKILL);
  wait_for(remover);
  REQUIRE(failed == 0);
  report_figures("directory removed in a loop: 0 failures");
}

TEST_CASE("a process that is stopped while it compiles delays the others by a bounded time",
          "[contract][C4]") {
  if (!is_full_scale()) {
    KILN_SKIP("it waits for a timeout of 20 s; the locks' own tests cover it with a short one");
  }
  TempDir dir;
  const std::string root = dir / "cache";
  const pid_t holder = start_child([&] {
    runtime::Engine(engine_options(root, nullptr, 60'000)).cubin_for(kernel_number(0));
    return 0;
  });
  while (names_in(root + "/v1/lock").empty()) ::usleep(1000);
  ::usleep(200'000);  // it holds the lock now and compiles
  ::kill(holder, SIGSTOP);
  Crowd crowd;
  crowd.processes = 8;
  const CrowdResult result = run_crowd(root, crowd);
  ::kill(holder, SIGKILL);
  wait_for(holder);
  REQUIRE(result.failed_processes == 0);
  CHECK(result.seconds > 15);  // they did wait
  CHECK(result.seconds < 30);
  report_figures("lock holder stopped: 0 failures, the others waited " + decimals(result.seconds) +
                 " s of at most 20 s");
}

}  // namespace kiln::cache::test

// fork() at random moments of compiles, loads and launches: the child gets a clean error, or works
// when its parent had no engine yet; it never hangs. Not for sanitizers, whose own locks a fork may
// copy.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "tests/jit/nvrtc_paths.h"
#include "tests/runtime/launch_support.h"
#include "tests/support/gate.h"

namespace kiln::test {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

struct Forks {
  int count = 0, hung = 0, wrong = 0;
  double longest_ms = 0;
};

// Forks once. `in_child` says whether all is well there; a child that takes more than a second has
// hung and is ended.
void fork_once(const std::function<bool()>& in_child, Forks& forks) {
  const Clock::time_point begin = Clock::now();
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) _exit(in_child() ? 0 : 1);
  ++forks.count;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (ms_since(begin) > 1000) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      ++forks.hung;
      return;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  forks.longest_ms = std::max(forks.longest_ms, ms_since(begin));
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) ++forks.wrong;
}

void check_and_report(const Forks& forks, const std::string& during) {
  CHECK(forks.hung == 0);
  CHECK(forks.wrong == 0);
  report_figures(fmt::format("{} forks during {}: {} hung, {} wrong, longest child {:.0f} ms",
                             forks.count, during, forks.hung, forks.wrong, forks.longest_ms));
}

bool is_turned_away(kiln_status status) {
  return status == KILN_ERROR_FORKED && error_mentions("forked");
}

// What a child tries with the handles of its parent, and with new ones.
bool every_call_is_turned_away(kiln_engine* engine, kiln_plan* plan, kiln_quantizer* quantizer) {
  const kiln_problem problem = small_problem();
  const kiln_operands operands = good_operands();
  const kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
  kiln_engine* made = nullptr;
  kiln_plan* made_plan = nullptr;
  kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
  kiln_cache_statistics statistics = KILN_CACHE_STATISTICS_INIT;
  kiln_probe_report report = KILN_PROBE_REPORT_INIT;
  kiln_quantize_operands cast = KILN_QUANTIZE_OPERANDS_INIT;
  const bool good = is_turned_away(kiln_engine_create(&options, &made)) && made == nullptr &&
                    is_turned_away(kiln_plan_create(engine, &problem, nullptr, &made_plan)) &&
                    is_turned_away(kiln_plan_prepare(plan, 0, INT64_MAX)) &&
                    is_turned_away(kiln_plan_describe(plan, 1, &description)) &&
                    is_turned_away(kiln_launch(plan, &operands, nullptr)) &&
                    is_turned_away(kiln_quantizer_prepare(quantizer)) &&
                    is_turned_away(kiln_quantize(quantizer, &cast, nullptr)) &&
                    is_turned_away(kiln_cache_stats(engine, &statistics)) &&
                    is_turned_away(kiln_probe(nullptr, &report));
  kiln_quantizer_destroy(quantizer);
  kiln_plan_destroy(plan);
  kiln_engine_destroy(engine);
  return good;
}

// Runs `work` on some threads while `count` children are forked at random moments.
Forks fork_during(int threads, const std::function<void(std::mt19937&)>& work, int count,
                  int most_wait_us, const std::function<bool()>& in_child) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> workers;
  for (int id = 0; id < threads; ++id) {
    workers.emplace_back([&, id] {
      std::mt19937 random(static_cast<unsigned>(id) + 1);
      while (!stop) work(random);
    });
  }
  std::mt19937 random(99);
  Forks forks;
  for (int i = 0; i < count; ++i) {
    std::this_thread::sleep_for(
        std::chrono::microseconds(random() % static_cast<unsigned>(most_wait_us)));
    fork_once(in_child, forks);
  }
  stop = true;
  for (std::thread& worker : workers) worker.join();
  return forks;
}

// Runs a hidden case of this program in a process that has not made an engine yet.
int run_fresh(const std::string& name) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    execl("/proc/self/exe", "fork_test", name.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("a child forked during compiles, loads and launches is turned away within a second",
          "[runtime][fork]") {
  FakeMachine machine;
  const TempDir dir;
  machine.toolchain->delay_ms = 1;
  kiln_engine_options options = quiet_options();
  options.cache_dir = dir.path().c_str();
  EngineHandle engine = make_engine(machine, options);
  PlanHandle plan = make_plan(engine);
  kiln_quantize_problem cast = KILN_QUANTIZE_PROBLEM_INIT;
  kiln_quantizer* quantizer = nullptr;
  REQUIRE(kiln_quantizer_create(engine.get(), &cast, &quantizer) == KILN_OK);
  const QuantizerHandle quantizer_handle(quantizer);
  const auto work = [&](std::mt19937& random) {  // a new engine compiles and loads again
    kiln_engine* own = nullptr;
    if (runtime::create_engine(&options, {}, machine.hooks(), &own) != KILN_OK) return;
    const EngineHandle owner(own);
    kiln_problem problem = small_problem();
    problem.k = 128 * (8 + random() % 500);
    kiln_plan* made = nullptr;
    if (kiln_plan_create(own, &problem, nullptr, &made) != KILN_OK) return;
    const PlanHandle made_owner(made);
    kiln_plan_prepare(made, 0, 256);
    const kiln_operands operands = good_operands(1 + random() % 256);
    for (int i = 0; i < 20; ++i) kiln_launch(plan.get(), &operands, nullptr);
  };
  const Forks forks = fork_during(8, work, by_scale(20, 200), 5'000, [&] {
    return every_call_is_turned_away(engine.get(), plan.get(), quantizer);
  });
  check_and_report(forks, "compiles, loads and launches of 8 threads");
}

TEST_CASE("a child forked while NVRTC compiles is turned away within a second", "[runtime][fork]") {
  const std::vector<std::string> compilers = nvrtc_paths();
  if (compilers.empty()) KILN_SKIP("no NVRTC (12.4 to 13.x) was found");
  kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
  options.nvrtc_path = compilers.front().c_str();
  kiln_engine* engine = nullptr;
  REQUIRE(kiln_engine_create(&options, &engine) == KILN_OK);
  const EngineHandle owner(engine);
  const PlanHandle plan = make_plan(owner);
  const kiln_quantize_problem cast = KILN_QUANTIZE_PROBLEM_INIT;
  kiln_quantizer* quantizer = nullptr;
  REQUIRE(kiln_quantizer_create(engine, &cast, &quantizer) == KILN_OK);
  const QuantizerHandle quantizer_handle(quantizer);
  std::atomic<int> compiled{0};
  const auto work = [&](std::mt19937& random) {  // a small kernel, so that the end comes soon
    kiln_quantize_problem own = KILN_QUANTIZE_PROBLEM_INIT;
    own.power_of_two = static_cast<std::int32_t>(random() % 2);
    kiln_engine* another = nullptr;
    if (kiln_engine_create(&options, &another) != KILN_OK) return;
    const EngineHandle another_owner(another);
    kiln_quantizer* made = nullptr;
    if (kiln_quantizer_create(another, &own, &made) != KILN_OK) return;
    const QuantizerHandle made_owner(made);
    compiled += kiln_quantizer_prepare(made) == KILN_OK;
  };
  const Forks forks = fork_during(2, work, by_scale(10, 200), 100'000, [&] {
    return every_call_is_turned_away(engine, plan.get(), quantizer);
  });
  CHECK(compiled > 0);
  check_and_report(forks, "compiles of NVRTC on 2 threads");
}

TEST_CASE("a child of a process without an engine works", "[runtime][fork]") {
  CHECK(run_fresh("fresh: children work until there is an engine") == 0);
}

TEST_CASE("fresh: children work until there is an engine", "[.]") {
  REQUIRE_FALSE(runtime::is_forked());
  const auto works = [] {
    FakeMachine machine;
    kiln_engine* engine = nullptr;
    const kiln_engine_options options = quiet_options();
    if (runtime::create_engine(&options, {}, machine.hooks(), &engine) != KILN_OK) return false;
    const kiln_problem problem = small_problem();
    const kiln_operands operands = good_operands();
    kiln_plan* plan = nullptr;
    return kiln_plan_create(engine, &problem, nullptr, &plan) == KILN_OK &&
           kiln_launch(plan, &operands, nullptr) == KILN_OK;
  };
  Forks forks;
  for (int i = 0; i < 10; ++i) fork_once(works, forks);
  CHECK(forks.hung + forks.wrong == 0);
  CHECK(works());
  fork_once([&] { return !works() && error_mentions("forked"); }, forks);
  CHECK(forks.hung + forks.wrong == 0);
}

TEST_CASE("a child forked while its parent makes its first engine works or is turned away",
          "[runtime][fork]") {
  const int count = by_scale(20, 200);
  for (int i = 0; i < count; ++i) {
    INFO("process " << i);
    REQUIRE(run_fresh("fresh: a fork beside the first engine") == 0);
  }
  report_figures(fmt::format("{} processes that fork beside their first engine", count));
}

TEST_CASE("fresh: a fork beside the first engine", "[.]") {
  const auto make = [] {
    kiln_engine* engine = nullptr;
    const kiln_engine_options options = quiet_options(KILN_DEVICE_NONE);
    return kiln_engine_create(&options, &engine);
  };
  std::random_device random;
  std::thread other([&] { make(); });
  const Clock::time_point begin = Clock::now();
  const double wait_us = random() % 600;
  while (ms_since(begin) * 1000 < wait_us) {
  }
  Forks forks;
  fork_once(
      [&] {
        const kiln_status status = make();
        return status == KILN_OK || is_turned_away(status);
      },
      forks);
  other.join();
  CHECK(forks.hung == 0);
  CHECK(forks.wrong == 0);
}

}  // namespace kiln::test

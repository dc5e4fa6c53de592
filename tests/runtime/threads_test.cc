// Every call from many threads at once, on shared handles; the thread sanitizer watches in its build.
#include <atomic>
#include <thread>
#include <vector>

#include "tests/runtime/support.h"

namespace kiln::test {
namespace {

constexpr int kThreads = 16;
constexpr int kRounds = 100;

// What thread `id` does in one round with one of the plans; returns the number of wrong answers.
int one_round(int id, kiln_engine* engine, kiln_plan* plan, std::int64_t m) {
  kiln_operands operands = good_operands(m);
  switch (id % 5) {
    case 0: return kiln_launch(plan, &operands, nullptr) != KILN_OK;
    case 1: return kiln_plan_prepare(plan, 0, INT64_MAX) != KILN_OK;
    case 2: {
      kiln_plan_description description = KILN_PLAN_DESCRIPTION_INIT;
      return kiln_plan_describe(plan, m, &description) != KILN_OK;
    }
    case 3: {
      kiln_cache_statistics statistics = KILN_CACHE_STATISTICS_INIT;
      return kiln_cache_stats(engine, &statistics) != KILN_OK;
    }
    default: {
      operands.lda = 3;
      const bool refused = kiln_launch(plan, &operands, nullptr) == KILN_ERROR_INVALID_ARGUMENT;
      return !refused || !error_mentions("lda");
    }
  }
}

}  // namespace

TEST_CASE("any call may run on any thread, and each kernel is still built once", "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  machine.toolchain->delay_ms = 1;
  kiln_engine_options options = quiet_options();
  options.cache_dir = dir.path().c_str();
  const EngineHandle engine = make_engine(machine, options);
  std::vector<PlanHandle> plans;
  for (int i = 1; i <= 4; ++i) {
    kiln_problem problem = small_problem();
    problem.k = 256 * i;
    plans.push_back(make_plan(engine, problem));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int id = 0; id < kThreads; ++id) {
    threads.emplace_back([&, id] {
      for (int round = 0; round < kRounds; ++round) {
        const std::size_t plan = static_cast<std::size_t>(round + id) % plans.size();
        wrong += one_round(id, engine.get(), plans[plan].get(), 1 + round * 97);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(machine.toolchain->most_compiles_of_one() == 1);
  CHECK(machine.cuda.loads_in_wrong_context == 0);
}

}  // namespace kiln::test

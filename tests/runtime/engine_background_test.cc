// Background builds: a miss is NOT_READY, the kernel appears by itself, and neither the end of the
// engine nor a capture nor a fork waits for ever. The thread sanitizer watches in its build.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "runtime/background.h"
#include "tests/runtime/launch_support.h"

namespace kiln::test {
namespace {

using runtime::BackgroundBuilds;
using Answer = BackgroundBuilds::Answer;
using namespace std::chrono_literals;

// Far above what any of this takes; a test that needs it has failed.
bool soon(const std::function<bool()>& done) {
  const auto end = std::chrono::steady_clock::now() + 60s;
  while (!done()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

// Holds builds at its gate until it is opened.
class Gate {
 public:
  void wait() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    wake_.wait(lock, [this] { return open_; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    wake_.notify_all();
  }
  int waiting() {
    const std::lock_guard lock(mutex_);
    return waiting_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool open_ = false;
  int waiting_ = 0;
};

struct BackgroundFixture : FakeMachine {
  explicit BackgroundFixture(int jobs = 2, int delay_ms = 0, const std::string& directory = "") {
    toolchain->delay_ms = delay_ms;
    kiln_engine_options options = quiet_options();
    options.miss_policy = KILN_MISS_NOT_READY;
    options.background_jobs = jobs;
    options.cache_dir = directory.c_str();
    engine = make_engine(*this, options);
  }
  PlanHandle plan_of(std::int64_t k) const {
    kiln_problem problem = small_problem();
    problem.k = k;
    return make_plan(engine, problem);
  }
  kiln_cache_statistics stats() const {
    kiln_cache_statistics statistics = KILN_CACHE_STATISTICS_INIT;
    REQUIRE(kiln_cache_stats(engine.get(), &statistics) == KILN_OK);
    return statistics;
  }
  bool idle() const { return stats().background_pending == 0; }
  EngineHandle engine;
};

runtime::Log& quiet_log() {
  static runtime::Log log({runtime::LogLevel::kOff, nullptr, nullptr});
  return log;
}

}  // namespace

TEST_CASE("a launch that misses starts a background build, and a later one finds it",
          "[runtime][background]") {
  const TempDir dir;
  const kiln_operands operands = good_operands();
  {
    BackgroundFixture f(2, 0, dir.path());
    const PlanHandle plan = make_plan(f.engine);
    CHECK(kiln_launch(plan.get(), &operands, kStream) == KILN_ERROR_NOT_READY);
    CHECK(error_mentions("being built in the background"));
    REQUIRE(soon([&] { return kiln_launch(plan.get(), &operands, kStream) == KILN_OK; }));
    CHECK(f.toolchain->compiles == 1);
    CHECK(f.cuda.launches == 1);
    CHECK(f.cuda.loads_in_wrong_context == 0);
    REQUIRE(soon([&] { return f.idle(); }));
    CHECK(f.stats().background_built == 1);
    CHECK(f.stats().background_failed == 0);
  }

  // From disk as well, by an engine without a compiler.
  BackgroundFixture second(1, 0, dir.path());
  second.toolchain->available = false;
  const PlanHandle again = make_plan(second.engine);
  CHECK(kiln_launch(again.get(), &operands, kStream) == KILN_ERROR_NOT_READY);
  REQUIRE(soon([&] { return kiln_launch(again.get(), &operands, kStream) == KILN_OK; }));
  CHECK(second.stats().directory_hits == 1);
  CHECK(second.toolchain->compiles == 0);
}

TEST_CASE("many threads that miss the same kernels build each once", "[runtime][background]") {
  BackgroundFixture f(3, 2);
  std::vector<PlanHandle> plans;
  for (int i = 1; i <= 6; ++i) plans.push_back(f.plan_of(128 * i));
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int id = 0; id < 8; ++id) {
    threads.emplace_back([&, id] {
      for (std::size_t i = 0; i < plans.size(); ++i) {
        const std::size_t which = (i + static_cast<std::size_t>(id)) % plans.size();
        const kiln_operands operands = good_operands();
        kiln_status status = KILN_ERROR_NOT_READY;
        wrong += !soon([&] {
          kiln_operands fitting = operands;
          fitting.lda = fitting.ldb = 1024;
          status = kiln_launch(plans[which].get(), &fitting, kStream);
          return status != KILN_ERROR_NOT_READY;
        });
        wrong += status != KILN_OK;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(f.toolchain->most_compiles_of_one() == 1);
  CHECK(f.toolchain->compiles == 6);
}

TEST_CASE("a miss inside a capture is queued and disturbs nothing", "[runtime][background]") {
  BackgroundFixture f;
  const PlanHandle plan = make_plan(f.engine);
  const kiln_operands operands = good_operands();
  f.cuda.capturing = kStream;
  CHECK(kiln_launch(plan.get(), &operands, kStream) == KILN_ERROR_NOT_READY);
  REQUIRE(soon([&] { return f.idle(); }));
  CHECK(kiln_launch(plan.get(), &operands, kStream) == KILN_OK);
  CHECK_FALSE(f.cuda.capture_invalidated);
}

TEST_CASE(
    "a build that fails in the background is the error of later launches until it is "
    "prepared",
    "[runtime][background]") {
  BackgroundFixture f;
  f.toolchain->fails = true;
  const PlanHandle plan = make_plan(f.engine);
  const kiln_operands operands = good_operands();
  CHECK(kiln_launch(plan.get(), &operands, kStream) == KILN_ERROR_NOT_READY);
  REQUIRE(soon([&] { return f.idle(); }));
  for (int i = 0; i < 3; ++i)
    CHECK(kiln_launch(plan.get(), &operands, kStream) == KILN_ERROR_COMPILE_FAILED);
  CHECK(error_mentions("told to fail"));
  CHECK(error_mentions("kiln_plan_prepare"));
  CHECK(f.toolchain->compiles == 1);
  CHECK(f.stats().background_failed == 1);
  f.cuda.capturing = kStream;  // there a miss is never anything else
  CHECK(kiln_launch(plan.get(), &operands, kStream) == KILN_ERROR_NOT_READY);
  f.cuda.capturing = nullptr;
  f.toolchain->fails = false;
  REQUIRE(kiln_plan_prepare(plan.get(), 256, 256) == KILN_OK);
  CHECK(kiln_launch(plan.get(), &operands, kStream) == KILN_OK);
}

TEST_CASE("destroying an engine forgets what waits and finishes what runs",
          "[runtime][background]") {
  constexpr int kPlans = 20;
  BackgroundFixture f(2, 200);  // two seconds for all of them, were none forgotten
  for (int i = 1; i <= kPlans; ++i) {
    const PlanHandle plan = f.plan_of(128 * i);
    kiln_operands operands = good_operands();
    operands.lda = operands.ldb = 128 * kPlans;
    operands.ld_sfa = operands.ld_sfb = kPlans;
    CHECK(kiln_launch(plan.get(), &operands, kStream) == KILN_ERROR_NOT_READY);
  }
  f.engine.reset();
  CHECK(f.toolchain->compiles < kPlans);  // a loaded machine may have taken its time above
  CHECK(f.cuda.loaded_libraries == 0);
  CHECK(f.cuda.retained_contexts == 0);
}

TEST_CASE("freezing stops the background, and a miss is then an error", "[runtime][background]") {
  BackgroundFixture f;
  const PlanHandle plan = make_plan(f.engine);
  const kiln_operands operands = good_operands();
  REQUIRE(kiln_engine_freeze(f.engine.get()) == KILN_OK);
  CHECK(kiln_launch(plan.get(), &operands, kStream) == KILN_ERROR_FROZEN);
  CHECK(f.stats().background_pending == 0);
  CHECK(f.toolchain->compiles == 0);
}

TEST_CASE("the queue is bounded, takes each kernel once and starts no more threads than asked for",
          "[runtime][background]") {
  Gate gate;
  std::atomic<int> built{0};
  BackgroundBuilds builds(
      2,
      [&](const jit::KernelSpec&, std::string_view why) {
        gate.wait();
        built += why == "because";
      },
      quiet_log());
  const auto request = [&](int i) {
    return builds.request(gemm_spec(512, 128 * (i + 1)), "because").answer;
  };
  for (int i = 0; i < 2; ++i) REQUIRE(request(i) == Answer::kQueued);
  REQUIRE(soon([&] { return gate.waiting() == 2; }));
  constexpr int kMost = static_cast<int>(runtime::kMaxQueuedBuilds);
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < kMost + 2; ++i) REQUIRE(request(i) == Answer::kQueued);
  }
  CHECK(request(kMost + 2) == Answer::kFull);
  CHECK(builds.counts().pending == runtime::kMaxQueuedBuilds + 2);
  CHECK(builds.counts().refused == 1);
  CHECK(gate.waiting() == 2);
  gate.open();
  REQUIRE(soon([&] { return builds.counts().pending == 0; }));
  CHECK(built == kMost + 2);
  CHECK(builds.counts().built == runtime::kMaxQueuedBuilds + 2);
  builds.cancel();
  CHECK(request(0) == Answer::kStopped);
}

TEST_CASE("without background jobs no thread is started, and other policies ignore them",
          "[runtime][background]") {
  BackgroundFixture f(0);
  const PlanHandle plan = make_plan(f.engine);
  const kiln_operands operands = good_operands();
  CHECK(kiln_launch(plan.get(), &operands, kStream) == KILN_ERROR_NOT_READY);
  CHECK(f.idle());
  CHECK(f.toolchain->compiles == 0);
  kiln_engine_options options = quiet_options();
  options.background_jobs = 4;
  options.miss_policy = KILN_MISS_BLOCK;
  const EngineHandle blocking = make_engine(f, options);
  CHECK(kiln_launch(make_plan(blocking).get(), &operands, kStream) == KILN_OK);
  for (const int jobs : {-1, 65}) {
    options.background_jobs = jobs;
    kiln_engine* refused = nullptr;
    CHECK(runtime::create_engine(&options, {}, f.hooks(), &refused) == KILN_ERROR_INVALID_ARGUMENT);
    CHECK(error_mentions("background_jobs must be 0 (none) to 64"));
  }
}

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
// What a sanitizer locks does not survive a fork.
TEST_CASE("a child forked while the background builds is told so and ends at once",
          "[runtime][background]") {
  BackgroundFixture f(2, 1);
  std::vector<PlanHandle> plans;
  for (int i = 1; i <= 40; ++i) plans.push_back(f.plan_of(128 * i));
  for (int i = 0; i < 40; ++i) {
    kiln_operands operands = good_operands();
    operands.lda = operands.ldb = 128 * 40;
    operands.ld_sfa = operands.ld_sfb = 40;
    kiln_launch(plans[static_cast<std::size_t>(i)].get(), &operands, kStream);
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);  // ends it should it hang
      const bool refused = kiln_launch(plans[0].get(), &operands, kStream) == KILN_ERROR_FORKED &&
                           kiln_engine_freeze(f.engine.get()) == KILN_ERROR_FORKED;
      f.engine.reset();
      _exit(refused ? 0 : 1);
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  REQUIRE(soon([&] { return f.idle(); }));
  CHECK(f.stats().background_built == 40);
}
#endif

}  // namespace kiln::test

// Many threads create, prepare, launch, describe and destroy on two devices while driver calls fail
// at random and a stream is being captured. Each answer is checked: what the driver was asked to
// launch, which errors there may be, and that the caller's context and capture mode are as before.
// The thread sanitizer watches in its build; that is the form that counts.
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "tests/runtime/launch_support.h"
#include "tests/support/gate.h"

namespace kiln::test {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kThreads = 64;
constexpr int kDevices = 2;
constexpr std::uint32_t kFaultsPerMillion = 3'000;

struct Tally {
  std::atomic<std::uint64_t> calls{0}, launches{0}, captured{0}, refused{0}, engines{0};
  std::atomic<std::uint64_t> wrong{0};
  std::mutex mutex;
  std::string first;  // what was wrong first

  void fail(const std::string& what) {
    ++wrong;
    const std::lock_guard lock(mutex);
    if (first.empty()) first = fmt::format("{}: {}", what, kiln_last_error());
  }
};

// The problems of the run: of each layout, few enough that threads meet on them.
std::vector<kiln_problem> problems() {
  std::vector<kiln_problem> result{
      dense_1d1d(), grouped_problem(KILN_LAYOUT_GROUPED_CONTIGUOUS, KILN_GROUPS_ENDS),
      grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS),
      grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_ENDS)};
  for (int i = 1; i <= 4; ++i) {
    result.push_back(small_problem());
    result.back().n = 256 * i;
  }
  return result;
}

// What threads share. A handle lives as long as one of them holds it, so that none is destroyed
// while another uses it.
struct Shared {
  std::shared_ptr<kiln_engine> engine;
  std::shared_ptr<kiln_plan> plan;
  std::shared_ptr<kiln_quantizer> quantizer;
  kiln_problem problem = KILN_PROBLEM_INIT;
  int device = 0;
  bool two_way = false;
};

class Arena {
 public:
  Arena(const FakeMachine& machine, const std::string& cache) : machine_(machine), cache_(cache) {
    std::mt19937 random(1);
    for (Shared& slot : slots_) slot = make(random, nullptr);
  }
  Shared take(std::uint32_t index) {
    const std::lock_guard lock(mutex_);
    return slots_[index % slots_.size()];
  }
  Shared exchange(std::uint32_t index, const Shared& made) {
    const std::lock_guard lock(mutex_);
    return std::exchange(slots_[index % slots_.size()], made);
  }

  // A plan and a quantizer of `from`'s engine, or of a new one. Empty where a driver call failed.
  Shared make(std::mt19937& random, const Shared* from) const {
    Shared made;
    made.device = from != nullptr ? from->device : static_cast<int>(random() % kDevices);
    made.engine = from != nullptr ? from->engine : new_engine(made.device, random() % 4 != 0);
    if (made.engine == nullptr) return made;
    made.problem = problems_[random() % problems_.size()];
    kiln_plan* plan = nullptr;
    if (kiln_plan_create(made.engine.get(), &made.problem, nullptr, &plan) == KILN_OK)
      made.plan = {plan, kiln_plan_destroy};
    kiln_quantize_problem cast = KILN_QUANTIZE_PROBLEM_INIT;
    made.two_way = random() % 2 == 0;
    cast.two_way = made.two_way ? 1 : 0;
    kiln_quantizer* quantizer = nullptr;
    if (kiln_quantizer_create(made.engine.get(), &cast, &quantizer) == KILN_OK)
      made.quantizer = {quantizer, kiln_quantizer_destroy};
    return made;
  }

 private:
  std::shared_ptr<kiln_engine> new_engine(int device, bool on_disk) const {
    kiln_engine_options options = quiet_options(device);
    if (on_disk) options.cache_dir = cache_.c_str();
    kiln_engine* engine = nullptr;
    if (runtime::create_engine(&options, {}, machine_.hooks(), &engine) != KILN_OK) return nullptr;
    return {engine, kiln_engine_destroy};
  }

  const FakeMachine& machine_;
  const std::string& cache_;
  const std::vector<kiln_problem> problems_ = problems();
  std::mutex mutex_;
  std::array<Shared, 8> slots_;
};

// One thread's work, and its judgement of every answer.
class Worker {
 public:
  Worker(int id, Arena& arena, FakeCuda& cuda, std::mutex& capture, Tally& tally)
      : id_(id),
        arena_(arena),
        cuda_(cuda),
        capture_(capture),
        tally_(tally),
        random_(static_cast<unsigned>(id) * 7919 + 1),
        stream_(reinterpret_cast<CUstream>(0x100000 + std::uintptr_t{16} * id)) {
    fake_thread().random = static_cast<std::uint64_t>(id) + 1;
  }

  void run(Clock::time_point end) {
    while (Clock::now() < end && tally_.wrong == 0) {
      choose_context();
      const std::uint32_t index = random_();
      Shared work = arena_.take(index);
      const std::uint32_t what = random_() % 1000;
      if (what < 4 || (what < 60 && work.engine)) renew(index, what, work);
      if (work.plan) use_plan(work, what);
      if (work.quantizer && what % 3 == 0) use_quantizer(work);
      release(work);
    }
  }

 private:
  // New handles, of a new engine or of the one there is; other threads may get them.
  void renew(std::uint32_t index, std::uint32_t what, Shared& work) {
    const bool with_engine = what < 4;
    Shared made;
    checked("create", [&] {
      made = arena_.make(random_, with_engine ? nullptr : &work);
      return KILN_OK;
    });
    tally_.engines += with_engine ? 1 : 0;
    std::swap(work, made);
    release(made);
    if (!work.plan || !work.quantizer || what >= 20) return;
    made = arena_.exchange(index, work);
    release(made);
  }

  // Perhaps the last to hold them. Undoing has no faults: what could not be unloaded stays loaded.
  void release(Shared& work) {
    fake_thread().is_spared = true;
    checked("destroy", [&] {
      work = {};
      return KILN_OK;
    });
    fake_thread().is_spared = false;
  }

  void choose_context() {
    switch (random_() % 4) {
      case 0:
        before_ = nullptr;
        break;
      case 1:
        before_ = fake_other_context(id_ % 4);
        break;
      default:
        before_ = fake_primary_context(static_cast<int>(random_() % kDevices));
        break;
    }
    fake_set_current_context(before_);
  }

  // Makes the call and looks at what it left behind in this thread.
  template <class Call>
  kiln_status checked(const char* what, Call&& call) {
    const std::size_t depth = fake_context_depth();
    const kiln_status status = call();
    ++tally_.calls;
    if (fake_current_context() != before_ || fake_context_depth() != depth)
      tally_.fail(fmt::format("{} left another context", what));
    if (fake_thread().capture_mode != CU_STREAM_CAPTURE_MODE_GLOBAL)
      tally_.fail(fmt::format("{} left another capture mode", what));
    return status;
  }

  // Of a call that may build: what may come is an error of the driver, met by this thread or by the
  // one that built. A tensor map that the driver does not take is the caller's mistake.
  void expect_built(const char* what, kiln_status status) {
    if (status == KILN_OK) return;
    const bool no_map = status == KILN_ERROR_INVALID_ARGUMENT &&
                        std::string_view(fake_thread().last_fault) == "cuTensorMapEncodeTiled";
    if (status != KILN_ERROR_DRIVER && status != KILN_ERROR_OUT_OF_MEMORY && !no_map)
      tally_.fail(what);
    ++tally_.refused;
  }

  void use_plan(const Shared& work, std::uint32_t what) {
    kiln_plan* const plan = work.plan.get();
    const std::int64_t m = 128 * (1 + random_() % 40);
    if (what % 4 == 0)
      expect_built("prepare", checked("prepare", [&] { return kiln_plan_prepare(plan, 0, m); }));
    if (what % 5 == 0) describe(plan, m);
    if (what % 7 == 0) {
      kiln_cache_statistics statistics = KILN_CACHE_STATISTICS_INIT;
      if (checked("stats", [&] { return kiln_cache_stats(work.engine.get(), &statistics); }) !=
          KILN_OK)
        tally_.fail("stats");
    }
    if (what % 31 == 0) return launch_captured(work, m);
    for (int i = 0; i < 4; ++i) launch(work, m + i * 128);
  }

  void describe(kiln_plan* plan, std::int64_t m) {
    kiln_plan_description out = KILN_PLAN_DESCRIPTION_INIT;
    const kiln_status status =
        checked("describe", [&] { return kiln_plan_describe(plan, m, &out); });
    if (status != KILN_OK || out.m_min > m || out.m_max < m || out.threads <= 0)
      tally_.fail("describe");
  }

  kiln_operands operands(const kiln_problem& problem, std::int64_t m) {
    kiln_operands o = grouped_operands(problem, m);
    const auto own = static_cast<std::uintptr_t>(id_) << 40 | std::uintptr_t{random_() % 4096}
                                                                  << 12;
    o.ldd = problem.n;
    o.a = reinterpret_cast<const void*>(0x10000000 + own);
    o.d = reinterpret_cast<void*>(0x50000000 + own);
    return o;
  }

  bool is_ready(const Shared& work, const kiln_operands& o) {
    kiln_plan_description out = KILN_PLAN_DESCRIPTION_INIT;
    const std::int64_t m = o.expected_m > 0 ? o.expected_m : o.m;
    return kiln_plan_describe(work.plan.get(), m, &out) == KILN_OK && out.ready == 1;
  }

  void launch(const Shared& work, std::int64_t m) {
    const kiln_operands o = operands(work.problem, m);
    const bool ready = is_ready(work, o);
    const FakeThread& own = fake_thread();
    const std::uint64_t faults = own.faults, launches = own.launches;
    const kiln_status status =
        checked("launch", [&] { return kiln_launch(work.plan.get(), &o, stream_); });
    if (status != KILN_OK) {
      if (ready && own.faults == faults) tally_.fail("a ready launch failed without a fault");
      if (own.launches != launches) tally_.fail("a failed launch was enqueued");
      return expect_built("launch", status);
    }
    if (ready && own.faults != faults) tally_.fail("a launch swallowed a fault");
    if (own.launches != launches + 1) tally_.fail("a launch was not enqueued once");
    check_launched(work, o);
    ++tally_.launches;
  }

  void check_launched(const Shared& work, const kiln_operands& o) {
    const FakeLaunch& seen = fake_thread().last_launch;
    device::GemmParams params;
    std::memcpy(static_cast<void*>(&params), seen.params.data(), sizeof(params));
    const bool right = seen.param_bytes == sizeof(params) && seen.stream == stream_ &&
                       seen.context == fake_primary_context(work.device) && params.m == o.m &&
                       encoded(params.a).address == reinterpret_cast<std::uintptr_t>(o.a) &&
                       encoded(params.d).address == reinterpret_cast<std::uintptr_t>(o.d) &&
                       params.grouping == o.grouping && seen.grid_x >= 1 && seen.grid_x <= 132;
    if (!right) tally_.fail("the driver saw other parameters than were given");
  }

  // The fake captures one stream at a time.
  void launch_captured(const Shared& work, std::int64_t m) {
    const std::unique_lock one(capture_, std::try_to_lock);
    if (!one) return;
    const kiln_operands o = operands(work.problem, m);
    const bool ready = is_ready(work, o);
    cuda_.capture_invalidated = false;
    cuda_.capturing = stream_;
    const FakeThread& own = fake_thread();
    const std::uint64_t faults = own.faults;
    const kiln_status status =
        checked("captured launch", [&] { return kiln_launch(work.plan.get(), &o, stream_); });
    cuda_.capturing = nullptr;
    if (cuda_.capture_invalidated) tally_.fail("a capture was invalidated");
    const bool may_be =
        status == KILN_OK || (status == KILN_ERROR_NOT_READY && !ready) || own.faults != faults;
    if (!may_be) tally_.fail("a captured launch");
    ++tally_.captured;
  }

  void use_quantizer(const Shared& work) {
    kiln_quantizer* const quantizer = work.quantizer.get();
    if (random_() % 4 == 0)
      expect_built("prepare a cast",
                   checked("prepare a cast", [&] { return kiln_quantizer_prepare(quantizer); }));
    kiln_quantize_operands o = KILN_QUANTIZE_OPERANDS_INIT;
    o.rows = 16 * (1 + random_() % 50);
    o.cols = o.ld_in = o.ld_out = 1024;
    o.ld_scales = 8;
    o.in = reinterpret_cast<const void*>(0x10000000 + (static_cast<std::uintptr_t>(id_) << 40));
    o.out = reinterpret_cast<void*>(std::uintptr_t{0x20000000});
    o.scales = reinterpret_cast<float*>(std::uintptr_t{0x30000000});
    if (work.two_way) {
      o.out_t = reinterpret_cast<void*>(std::uintptr_t{0x40000000});
      o.ld_out_t = o.rows;
      o.scales_t = reinterpret_cast<float*>(std::uintptr_t{0x50000000});
      o.ld_scales_t = 8;
    }
    const std::uint64_t launches = fake_thread().launches;
    const kiln_status status =
        checked("cast", [&] { return kiln_quantize(quantizer, &o, stream_); });
    if (status != KILN_OK) return expect_built("cast", status);
    const FakeLaunch& seen = fake_thread().last_launch;
    device::QuantizeParams params;
    std::memcpy(&params, seen.params.data(), sizeof(params));
    if (fake_thread().launches != launches + 1 || params.in != o.in || params.rows != o.rows ||
        seen.context != fake_primary_context(work.device))
      tally_.fail("the driver saw another cast than was asked for");
    ++tally_.launches;
  }

  const int id_;
  Arena& arena_;
  FakeCuda& cuda_;
  std::mutex& capture_;
  Tally& tally_;
  std::mt19937 random_;
  CUstream stream_;
  CUcontext before_ = nullptr;
};

void stress(FakeMachine& machine, const std::string& cache, Clock::duration duration,
            Tally& tally) {
  Arena arena(machine, cache);
  machine.cuda.faults_per_million = kFaultsPerMillion;
  std::mutex capture;
  std::vector<std::thread> threads;
  const Clock::time_point end = Clock::now() + duration;
  for (int id = 0; id < kThreads; ++id)
    threads.emplace_back([&, id] { Worker(id, arena, machine.cuda, capture, tally).run(end); });
  for (std::thread& thread : threads) thread.join();
  machine.cuda.faults_per_million = 0;
}

}  // namespace

TEST_CASE("64 threads on two devices with failing driver calls get right answers only",
          "[runtime][stress]") {
  FakeMachine machine;
  machine.cuda.device_count = kDevices;
  const TempDir dir;
  const std::string cache = dir.path();
  const int retained = machine.cuda.retained_contexts, loaded = machine.cuda.loaded_libraries;
  const auto seconds = std::chrono::seconds(by_scale(5, 600));
  Tally tally;
  stress(machine, cache, seconds, tally);
  INFO(tally.first);
  CHECK(tally.wrong == 0);
  CHECK(machine.cuda.loads_in_wrong_context == 0);
  // Everything that was made is gone again, also what a fault left half made.
  CHECK(machine.cuda.retained_contexts == retained);
  CHECK(machine.cuda.loaded_libraries == loaded);
  // It would prove nothing if all had failed, or nothing.
  CHECK(tally.launches > tally.refused);
  CHECK(tally.refused > 0);
  CHECK(tally.captured > 0);
  CHECK(tally.engines > 0);
  report_figures(fmt::format(
      "{} threads, {} s, {} calls, {} launches, {} failed by injected faults, {} engines, {} wrong",
      kThreads, seconds.count(), with_commas(tally.calls), with_commas(tally.launches),
      with_commas(tally.refused), with_commas(tally.engines), with_commas(tally.wrong)));
}

}  // namespace kiln::test

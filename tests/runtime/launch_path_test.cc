// What a launch of a ready kernel does not do: allocate, lock, or make system calls of its own.
//
// The allocator and the lock functions are replaced in this program and count what they are asked
// while a scope is watched; system calls are forbidden by a seccomp filter in launch_loop. Each way
// of measuring is first shown to notice an offence. The fake driver does none of these things
// itself.
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <vector>

#include "tests/runtime/launch_support.h"

namespace {

thread_local bool watched = false;
std::atomic<int> allocations{0};
std::atomic<int> locks{0};

void note(std::atomic<int>& counter) {
  if (watched) counter.fetch_add(1, std::memory_order_relaxed);
}

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

// glibc's own names of the functions that stand behind the replaced ones.
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);

void* malloc(size_t bytes) {
  note(allocations);
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  note(allocations);
  return __libc_calloc(count, bytes);
}
void* realloc(void* memory, size_t bytes) {
  note(allocations);
  return __libc_realloc(memory, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  note(allocations);
  return __libc_memalign(alignment, bytes);
}
void free(void* memory) {
  note(allocations);
  __libc_free(memory);
}

int pthread_mutex_lock(pthread_mutex_t* mutex) {
  static const auto real = next<int (*)(pthread_mutex_t*)>("pthread_mutex_lock");
  note(locks);
  return real(mutex);
}
int pthread_rwlock_rdlock(pthread_rwlock_t* lock) {
  static const auto real = next<int (*)(pthread_rwlock_t*)>("pthread_rwlock_rdlock");
  note(locks);
  return real(lock);
}
int pthread_rwlock_wrlock(pthread_rwlock_t* lock) {
  static const auto real = next<int (*)(pthread_rwlock_t*)>("pthread_rwlock_wrlock");
  note(locks);
  return real(lock);
}

}  // extern "C"

namespace kiln::test {
namespace {

// Counts what the body's thread asks for while it runs.
template <class Body>
std::pair<int, int> watch(Body&& body) {
  allocations = locks = 0;
  watched = true;
  body();
  watched = false;
  return {allocations, locks};
}

// Exit status of launch_loop, which is a program of its own because a forked child may not use
// Kiln.
int run_launch_loop(const char* mode) {
  const std::string command = std::string(KILN_LAUNCH_LOOP) + " " + mode;
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct Ready {
  FakeMachine machine;
  EngineHandle engine = make_engine(machine, quiet_options());
  PlanHandle plan = make_plan(engine);
  const kiln_problem masked_problem =
      grouped_problem(KILN_LAYOUT_GROUPED_MASKED, KILN_GROUPS_ROWS, 32);
  const kiln_problem packed_problem =
      grouped_problem(KILN_LAYOUT_GROUPED_K, KILN_GROUPS_PACKED, 97);  // two launches
  PlanHandle masked = make_plan(engine, masked_problem);
  PlanHandle packed = make_plan(engine, packed_problem);
  std::vector<std::int32_t> group_k = std::vector<std::int32_t>(97, 256);
  QuantizerHandle quantizer;
  kiln_quantize_operands cast = KILN_QUANTIZE_OPERANDS_INIT;

  Ready() {
    kiln_quantize_problem problem = KILN_QUANTIZE_PROBLEM_INIT;
    kiln_quantizer* made = nullptr;
    kiln_quantizer_create(engine.get(), &problem, &made);
    quantizer.reset(made);
    for (const PlanHandle* each : {&plan, &masked, &packed})
      kiln_plan_prepare(each->get(), 0, INT64_MAX);
    kiln_quantizer_prepare(quantizer.get());
    cast.rows = cast.cols = cast.ld_in = cast.ld_out = 1024;
    cast.ld_scales = 8;
    cast.in = good_operands().a;
    cast.out = good_operands().d;
    cast.scales = static_cast<float*>(good_operands().d);
  }

  // The caller's context alternates between none and the engine's. Returns the number of failures.
  int launch_many() {
    int failures = 0;
    for (const std::int64_t m : {1, 64, 100, 4096, 100'000}) {
      kiln_operands operands = good_operands(m);
      const kiln_operands of_masked = grouped_operands(masked_problem, m);
      kiln_operands of_packed = grouped_operands(packed_problem, m);
      of_packed.host_group_k = group_k.data();
      for (int i = 0; i < 100; ++i) {
        operands.flags = i % 2 == 0 ? 0 : KILN_LAUNCH_PROGRAMMATIC;
        failures += kiln_launch(plan.get(), &operands, nullptr) != KILN_OK;
        failures += kiln_launch(masked.get(), &of_masked, nullptr) != KILN_OK;
        failures += kiln_launch(packed.get(), &of_packed, nullptr) != KILN_OK;
        failures += kiln_quantize(quantizer.get(), &cast, nullptr) != KILN_OK;
      }
    }
    return failures;
  }
};

// A problem of configs/shapes, where what is not said has its layout's default.
kiln_problem problem_of(const nlohmann::json& shape) {
  kiln_problem problem = KILN_PROBLEM_INIT;
  problem.n = shape.at("n");
  problem.k = shape.at("k");
  const jit::Layout layout =
      jit::parse_layout(shape.value("layout", std::string("dense")), "layout");
  problem.layout = static_cast<std::int32_t>(layout);
  problem.group_form = static_cast<std::int32_t>(jit::default_group_form(layout));
  problem.groups = shape.value("groups", 1);
  if (layout == jit::Layout::kGroupedContiguous) problem.alignment = 128;
  if (layout == jit::Layout::kGroupedK || shape.value("scaling", "1d2d") == "1d1d") {
    problem.scaling = KILN_SCALING_1D1D;
    problem.sfa_major = KILN_SCALE_M_MAJOR;
  }
  if (shape.value("out", "bf16") == "f32") problem.d_type = KILN_TYPE_F32;
  problem.accumulate = shape.value("accumulate", false) ? 1 : 0;
  return problem;
}

}  // namespace

TEST_CASE("a launch of a ready kernel neither allocates nor locks", "[runtime]") {
  Ready ready;
  fake_set_current_context(fake_primary_context(0));
  REQUIRE(ready.launch_many() == 0);  // first uses of what the fake and the C library set up lazily
  std::mutex mutex;
  CHECK(watch([&] { const std::lock_guard lock(mutex); }).second == 1);
  CHECK(watch([&] { delete new volatile int(1); }).first == 2);

  int failures = -1;
  const auto [allocated, locked] = watch([&] { failures = ready.launch_many(); });
  CHECK(failures == 0);
  CHECK(allocated == 0);
  CHECK(locked == 0);
}

TEST_CASE("a launch of a ready kernel makes no system call of its own", "[runtime]") {
  constexpr int kNoFilter = 77;
  const int offence = run_launch_loop("offend");
  if (offence == kNoFilter) KILN_SKIP("seccomp filters are not allowed here");
  CHECK(offence == 128 + SIGSYS);  // the filter notices
  CHECK(run_launch_loop("launch") == 0);
}

TEST_CASE("engine, plans and cache keep less than 16 MiB of host memory for DeepSeek-V3",
          "[runtime]") {
  std::ifstream file(KILN_SHAPES_DIR "/deepseek-v3.json");
  const nlohmann::json shapes = nlohmann::json::parse(file);
  FakeMachine machine;
  const TempDir dir;
  machine.toolchain->cubin_bytes = 60'000;  // a large one
  kiln_engine_options options = quiet_options();
  options.cache_dir = dir.path().c_str();

  const auto in_use = [] {
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
  };
  const std::size_t before = in_use();
  const EngineHandle engine = make_engine(machine, options);
  std::vector<PlanHandle> plans;
  for (const auto& shape : shapes.at("problems")) {
    plans.push_back(make_plan(engine, problem_of(shape)));
    REQUIRE(kiln_plan_prepare(plans.back().get(), 0, INT64_MAX) == KILN_OK);
  }
  const std::size_t kept = in_use() - before;
  CHECK(plans.size() >= 10);
  CHECK(machine.toolchain->compiles >= 10);  // some problems share theirs
  CHECK(kept > 10'000);                      // the measure sees the plans
  CHECK(kept < (std::size_t{16} << 20));
  WARN(machine.toolchain->compiles << " kernels of " << plans.size() << " problems keep "
                                   << kept / 1024 << " KiB");
}

}  // namespace kiln::test

// Two GPUs of one process: threads that alternate between them get right results, and each finds
// its own CUDA context current after every call.
#include <fmt/format.h>

#include <atomic>
#include <deque>
#include <random>
#include <thread>

#include "tests/runtime/gpu_support.h"
#include "tests/support/gate.h"

namespace kiln::test {
namespace {

constexpr int kThreads = 8;
constexpr std::int64_t kN = 512, kK = 768, kMaxM = 512;
constexpr std::uint8_t kOneE4m3 = 0x38;
constexpr std::uint16_t kExpected = 0x4440;  // 768 in BF16: every element of D

std::vector<std::uint8_t> random_codes(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> codes(count);
  for (std::uint8_t& code : codes) {
    do code = static_cast<std::uint8_t>(random());
    while ((code & 0x7f) == 0x7f);  // NaN
  }
  return codes;
}

// One engine on one device, with operands that are all ones, or the same random ones everywhere.
struct OnDevice {
  explicit OnDevice(int ordinal, bool is_random = false) {
    kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
    options.device = ordinal;
    KILN_CHECK_OK(kiln_engine_create(&options, &engine));
    kiln_problem problem = KILN_PROBLEM_INIT;
    problem.n = kN;
    problem.k = kK;
    KILN_CHECK_OK(kiln_plan_create(engine, &problem, nullptr, &plan));
    using Codes = std::vector<std::uint8_t>;
    a = runtime::DeviceBuffer::of(
        device(), is_random ? random_codes(kMaxM * kK, 1) : Codes(kMaxM * kK, kOneE4m3));
    b = runtime::DeviceBuffer::of(device(),
                                  is_random ? random_codes(kN * kK, 2) : Codes(kN * kK, kOneE4m3));
    sfa = runtime::DeviceBuffer::of(device(), std::vector<float>(kMaxM * kK / 128, 1.0f));
    sfb = runtime::DeviceBuffer::of(device(), std::vector<float>(kN / 128 * kK / 128, 1.0f));
  }
  ~OnDevice() {
    for (runtime::DeviceBuffer* buffer : {&a, &b, &sfa, &sfb})
      *buffer = runtime::DeviceBuffer();  // before the context goes with the engine
    kiln_plan_destroy(plan);
    kiln_engine_destroy(engine);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  const runtime::Device& device() const { return runtime::engine_of(engine).device(); }
  kiln_operands operands(std::int64_t m, void* d) const {
    kiln_operands o = KILN_OPERANDS_INIT;
    o.m = m;
    o.a = a.data();
    o.b = b.data();
    o.lda = o.ldb = kK;
    o.sfa = sfa.data<float>();
    o.sfb = sfb.data<float>();
    o.ld_sfa = o.ld_sfb = kK / 128;
    o.d = d;
    o.ldd = kN;
    return o;
  }

  kiln_engine* engine = nullptr;
  kiln_plan* plan = nullptr;
  runtime::DeviceBuffer a, b, sfa, sfb;
};

// One launch on a device from a thread whose current context is `own`; returns what was wrong.
int launch_once(const OnDevice& on, std::int64_t m, CUcontext own) {
  const runtime::Driver& driver = on.device().driver();
  const runtime::DeviceBuffer d(on.device(), static_cast<std::size_t>(m * kN) * 2);
  const runtime::Stream stream(on.device());
  d.fill(0xff, stream.get());
  const kiln_operands operands = on.operands(m, d.data());
  int wrong = kiln_launch(on.plan, &operands, stream.get()) != KILN_OK;
  CUcontext after = nullptr;
  wrong += driver.cuCtxGetCurrent(&after) != CUDA_SUCCESS || after != own;
  stream.synchronize();
  for (const std::uint16_t value : d.to_host<std::uint16_t>()) wrong += value != kExpected;
  return wrong;
}

}  // namespace

TEST_CASE("threads that alternate between two GPUs get right results on both", "[gpu][devices]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  if (gpu.device().driver().device_count() < 2) KILN_SKIP("one GPU only: this needs two");
  OnDevice first(0), second(1);
  const int rounds = by_scale(20, 1'000);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int id = 0; id < kThreads; ++id) {
    threads.emplace_back([&, id] {
      // A third of the threads has no context, the others that of one of the devices.
      const CUcontext own = id % 3 == 0   ? nullptr
                            : id % 3 == 1 ? first.device().context()
                                          : second.device().context();
      if (own != nullptr) first.device().driver().cuCtxPushCurrent(own);
      for (int round = 0; round < rounds; ++round) {
        const OnDevice& on = (round + id) % 2 == 0 ? first : second;
        wrong += launch_once(on, 1 + (round * 37 + id * 11) % kMaxM, own);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  report_figures(fmt::format("{} threads on 2 GPUs, {} launches, {} wrong", kThreads,
                             with_commas(static_cast<unsigned>(kThreads * rounds)), wrong.load()));
}

TEST_CASE("the same operands give the same bits on four streams of each GPU", "[gpu][bits]") {
  KILN_REQUIRE_GPU_OR_SKIP(gpu);
  constexpr int kStreams = 4;
  const int gpus = std::min(gpu.device().driver().device_count(), 2);
  struct Lane {
    explicit Lane(const OnDevice& device)
        : on(&device), stream(device.device()), d(device.device(), std::size_t{kMaxM * kN * 2}) {}
    const OnDevice* on;
    runtime::Stream stream;
    runtime::DeviceBuffer d;
  };
  std::deque<OnDevice> devices;
  std::deque<Lane> lanes;  // of all streams and devices; each has a D of its own
  for (int i = 0; i < gpus; ++i) {
    const OnDevice& on = devices.emplace_back(i, true);
    for (int stream = 0; stream < kStreams; ++stream) lanes.emplace_back(on);
  }
  const int rounds = by_scale(5, 1000 / (gpus * kStreams));
  std::vector<std::uint16_t> expected;
  int differing = 0;
  for (int round = 0; round < rounds; ++round) {
    for (Lane& lane : lanes) {
      lane.d.fill(0xff, lane.stream.get());
      const kiln_operands operands = lane.on->operands(kMaxM, lane.d.data());
      KILN_CHECK_OK(kiln_launch(lane.on->plan, &operands, lane.stream.get()));
    }
    for (Lane& lane : lanes) {
      lane.stream.synchronize();
      const std::vector<std::uint16_t> got = lane.d.to_host<std::uint16_t>();
      if (expected.empty()) expected = got;
      differing += got != expected;
    }
  }
  CHECK(differing == 0);
  CHECK(std::count(expected.begin(), expected.end(), std::uint16_t{0xffff}) == 0);  // all written
  report_figures(fmt::format("{} launches on {} streams of {} GPU(s), {} with other bits",
                             with_commas(static_cast<unsigned>(rounds) * lanes.size()), kStreams,
                             gpus, differing));
}

}  // namespace kiln::test

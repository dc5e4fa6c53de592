#include "tools/cupti.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "tools/dynamic_library.h"
#include "tools/text.h"

namespace kiln::tools {
namespace {

// ---- The declarations of cupti.h that are needed: values and layouts of its stable ABI. ----

using CuptiResult = int;
constexpr CuptiResult kCuptiSuccess = 0;
constexpr int kKernel = 3;             // CUPTI_ACTIVITY_KIND_KERNEL
constexpr int kConcurrentKernel = 10;  // CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL
constexpr std::size_t kRecordAlignment = 8;

// How a kernel's record begins in every version since CUDA 7; what follows has grown.
struct KernelRecord {
  std::int32_t kind;
  std::uint8_t cache_config, shared_memory_config;
  std::uint16_t registers;
  std::int32_t global_cache_requested, global_cache_executed;
  std::uint64_t begin_ns, end_ns;
};
static_assert(offsetof(KernelRecord, begin_ns) == 16 && offsetof(KernelRecord, end_ns) == 24);

using BufferRequested = void (*)(std::uint8_t** buffer, std::size_t* bytes, std::size_t* records);
using BufferCompleted = void (*)(CUcontext, std::uint32_t stream, std::uint8_t* buffer,
                                 std::size_t bytes, std::size_t valid_bytes);

struct CuptiFunctions {
  CuptiResult (*register_callbacks)(BufferRequested, BufferCompleted) = nullptr;
  CuptiResult (*enable)(int) = nullptr;
  CuptiResult (*disable)(int) = nullptr;
  CuptiResult (*flush)(std::uint32_t) = nullptr;
  CuptiResult (*next)(std::uint8_t*, std::size_t, std::uint8_t**) = nullptr;
  CuptiResult (*result_string)(CuptiResult, const char**) = nullptr;
};

bool bind_all(const DynamicLibrary& library, CuptiFunctions& f) {
  return library.bind(f.register_callbacks, "cuptiActivityRegisterCallbacks") &&
         library.bind(f.enable, "cuptiActivityEnable") &&
         library.bind(f.disable, "cuptiActivityDisable") &&
         library.bind(f.flush, "cuptiActivityFlushAll") &&
         library.bind(f.next, "cuptiActivityGetNextRecord") &&
         library.bind(f.result_string, "cuptiGetResultString");
}

std::string text_of(const CuptiFunctions& f, CuptiResult result) {
  const char* text = nullptr;
  const bool known = f.result_string(result, &text) == kCuptiSuccess && text != nullptr;
  return known ? text : fmt::format("error {}", result);
}

// ---- Where the callbacks put what they get, from whichever thread CUPTI calls them on. ----

struct Collector {
  std::mutex mutex;
  CuptiFunctions functions;
  std::vector<KernelTime> times;
};

// Lives as long as the process: CUPTI may return buffers while it exits.
Collector& collector() {
  static Collector& only = *new Collector;
  return only;
}

void give_buffer(std::uint8_t** buffer, std::size_t* bytes, std::size_t* records) {
  constexpr std::size_t kBufferBytes = std::size_t{256} << 10;
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(kRecordAlignment, kBufferBytes));
  *bytes = *buffer != nullptr ? kBufferBytes : 0;
  *records = 0;  // as many as fit
}

void read_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t,
                 std::size_t valid_bytes) {
  Collector& c = collector();
  const std::lock_guard lock(c.mutex);
  std::uint8_t* record = nullptr;
  while (c.functions.next(buffer, valid_bytes, &record) == kCuptiSuccess) {
    KernelRecord kernel;
    std::memcpy(&kernel.kind, record, sizeof(kernel.kind));
    if (kernel.kind != kConcurrentKernel && kernel.kind != kKernel) continue;
    std::memcpy(&kernel, record, sizeof(kernel));
    c.times.push_back({kernel.begin_ns, kernel.end_ns});
  }
  std::free(buffer);
}

class CuptiRecorder final : public KernelRecorder {
 public:
  CuptiRecorder(std::string path, const CuptiFunctions& functions)
      : path_(std::move(path)), f_(functions) {}
  CuptiRecorder(const CuptiRecorder&) = delete;
  CuptiRecorder& operator=(const CuptiRecorder&) = delete;
  ~CuptiRecorder() override {
    constexpr std::uint32_t kForced = 1;  // CUPTI_ACTIVITY_FLAG_FLUSH_FORCED
    f_.disable(kConcurrentKernel);
    f_.flush(kForced);
  }

  const std::string& path() const override { return path_; }

  std::vector<KernelTime> take(std::size_t expected) override {
    constexpr int kTries = 200;
    constexpr auto kPause = std::chrono::milliseconds(5);
    for (int i = 0; i < kTries; ++i) {
      if (i > 0) std::this_thread::sleep_for(kPause);
      // Not forced: a buffer is returned only once all its records are complete.
      const CuptiResult result = f_.flush(0);
      if (result != kCuptiSuccess)
        throw Error(Status::kDriverError,
                    fmt::format("cuptiActivityFlushAll: {}", text_of(f_, result)));
      if (recorded() >= expected) return sorted();
    }
    throw Error(
        Status::kDriverError,
        fmt::format("CUPTI recorded {} of {} kernels: try --clock events", recorded(), expected));
  }

 private:
  static std::size_t recorded() {
    const std::lock_guard lock(collector().mutex);
    return collector().times.size();
  }
  static std::vector<KernelTime> sorted() {
    const std::lock_guard lock(collector().mutex);
    std::vector<KernelTime> times = std::exchange(collector().times, {});
    std::sort(times.begin(), times.end(),
              [](const KernelTime& a, const KernelTime& b) { return a.begin_ns < b.begin_ns; });
    return times;
  }

  std::string path_;
  CuptiFunctions f_;
};

double span_us(const std::vector<KernelTime>& times, std::size_t first) {
  std::uint64_t end_ns = 0;
  for (std::size_t i = first; i < times.size(); ++i) end_ns = std::max(end_ns, times[i].end_ns);
  if (times[first].begin_ns == 0 || end_ns <= times[first].begin_ns) {
    throw Error(Status::kDriverError, "CUPTI recorded a kernel without times: try --clock events");
  }
  return static_cast<double>(end_ns - times[first].begin_ns) / 1e3;
}

}  // namespace

std::unique_ptr<KernelRecorder> KernelRecorder::open(std::string& reason) {
  constexpr std::array<std::string_view, 3> kSonames = {"libcupti.so.13", "libcupti.so.12",
                                                        "libcupti.so"};
  constexpr std::array<std::string_view, 2> kPackages = {"cu13", "cuda_cupti"};
  const DynamicLibrary library(toolkit_candidates(kSonames, kPackages));
  if (!library) {
    reason = fmt::format("CUPTI {}: install the CUDA toolkit or the PyPI package nvidia-cuda-cupti",
                         library.message());
    return nullptr;
  }
  CuptiFunctions f;
  if (!bind_all(library, f)) {
    reason = fmt::format("{} lacks calls of CUPTI 12: update it", library.path());
    return nullptr;
  }
  {
    const std::lock_guard lock(collector().mutex);
    collector().functions = f;
    collector().times.clear();
  }
  CuptiResult result = f.register_callbacks(give_buffer, read_buffer);
  if (result == kCuptiSuccess) result = f.enable(kConcurrentKernel);
  if (result == kCuptiSuccess) return std::make_unique<CuptiRecorder>(library.path(), f);
  reason = fmt::format("{}: {} (is another profiler running?)", library.path(), text_of(f, result));
  return nullptr;
}

KernelStopwatch::KernelStopwatch(const runtime::Device& device, KernelRecorder& recorder,
                                 L2Mode mode, Launch read_l2, std::size_t flush_bytes,
                                 const Launch& trial)
    : recorder_(recorder), l2_(device, mode, std::move(read_l2), flush_bytes), stream_(device) {
  recorder_.take(0);
  count_kernels(trial);
  if (mode != L2Mode::kClean) return;  // the others write with memsets, which are no kernels
  l2_kernels_ = count_kernels([this](CUstream stream) { l2_.enqueue(stream); });
}

// How many kernels one launch is; at least one.
std::size_t KernelStopwatch::count_kernels(const Launch& launch) {
  launch(stream_.get());
  stream_.synchronize();
  const std::vector<KernelTime> times = recorder_.take(1);
  span_us(times, 0);  // throws where kernels have no times
  return times.size();
}

std::size_t KernelStopwatch::add(const Launch& launch) {
  recorder_.take(0);  // whatever ran in between, such as a check
  contestants_.push_back({launch, launch != nullptr ? count_kernels(launch) : 0});
  return contestants_.size() - 1;
}

double KernelStopwatch::sample_us(std::size_t index) {
  const Contestant& contestant = contestants_.at(index);
  if (contestant.launch == nullptr) return 0;
  l2_.enqueue(stream_.get());
  contestant.launch(stream_.get());
  stream_.synchronize();
  return span_us(recorder_.take(l2_kernels_ + contestant.kernels), l2_kernels_);
}

Clock parse_clock(std::string_view text, std::string_view field) {
  if (text == "auto") return Clock::kAuto;
  if (text == "cupti") return Clock::kCupti;
  if (text == "events") return Clock::kEvents;
  throw Error(Status::kInvalidArgument,
              fmt::format("{} must be auto, cupti or events, got {}", field, quote(text)));
}

Timer open_timer(const runtime::Device& device, const TimerOptions& options, const Launch& trial) {
  Timer timer;
  if (options.clock == Clock::kEvents) timer.reason = "asked for";
  if (options.mode == L2Mode::kHot) timer.reason = "launches that overlap are timed together";
  if (timer.reason.empty()) timer.recorder = KernelRecorder::open(timer.reason);
  if (timer.recorder) {
    try {
      timer.stopwatch = std::make_unique<KernelStopwatch>(
          device, *timer.recorder, options.mode, options.read_l2, options.flush_bytes, trial);
      timer.clock = "cupti";
      return timer;
    } catch (const Error& error) {
      timer.recorder.reset();
      timer.reason = error.what();
    }
  }
  if (options.clock == Clock::kCupti)
    throw Error(Status::kUnsupported, fmt::format("no kernel times from CUPTI: {}", timer.reason));
  timer.stopwatch =
      std::make_unique<GraphStopwatch>(device, options.mode, options.read_l2, options.flush_bytes);
  timer.clock = "events";
  return timer;
}

}  // namespace kiln::tools

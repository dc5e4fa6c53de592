// Kernel times from CUPTI, the interface below NVIDIA's profilers: the GPU's clock at the start and
// at the end of each kernel. Opened at run time, never needed, without special rights.
//
// What a profiler shows as the time of a kernel is this. Two events around a kernel show more: they
// include the way from one event to the kernel and from the kernel to the other, a few microseconds
// of which only a part can be measured without a kernel. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/device_memory.h"
#include "tools/measure.h"

namespace kiln::tools {

struct KernelTime {
  std::uint64_t begin_ns = 0, end_ns = 0;
};

// Records all kernels of the process while it exists. CUPTI's callbacks carry no user data, so
// there can be one at a time.
class KernelRecorder {
 public:
  // Null when CUPTI cannot be used; `reason` then says why.
  static std::unique_ptr<KernelRecorder> open(std::string& reason);
  virtual ~KernelRecorder() = default;

  virtual const std::string& path() const = 0;
  // The kernels since the last call, in the order in which they began. What they were enqueued on
  // must have been synchronised. Waits for `expected` of them, but not forever: then it throws
  // Error{kDriverError}.
  virtual std::vector<KernelTime> take(std::size_t expected) = 0;
};

// For the modes flush and clean. A launch of several kernels takes from the begin of the first to
// the end of the last. The empty interval is 0.
class KernelStopwatch final : public Stopwatch {
 public:
  // As L2State; `recorder` must outlive this. Throws Error{kDriverError} when kernels run
  // unrecorded: `trial` is one or more kernels.
  KernelStopwatch(const runtime::Device& device, KernelRecorder& recorder, L2Mode mode,
                  Launch read_l2, std::size_t flush_bytes, const Launch& trial);

  std::size_t add(const Launch& launch) override;
  double sample_us(std::size_t index) override;
  int launches_per_sample() const override { return 1; }
  void clear() override { contestants_.clear(); }

 private:
  struct Contestant {
    Launch launch;
    std::size_t kernels = 0;
  };
  std::size_t count_kernels(const Launch& launch);

  KernelRecorder& recorder_;
  L2State l2_;
  runtime::Stream stream_;
  std::size_t l2_kernels_ = 0;
  std::vector<Contestant> contestants_;
};

// auto    CUPTI where it works, else events
// cupti   CUPTI or an error
// events  GraphStopwatch
enum class Clock : std::uint8_t { kAuto, kCupti, kEvents };
Clock parse_clock(std::string_view text, std::string_view field);  // throws kInvalidArgument

// A stopwatch and what it goes by. Launches that overlap are timed together, so the hot mode always
// goes by events.
struct Timer {
  std::unique_ptr<KernelRecorder> recorder;  // before `stopwatch`, which uses it
  std::unique_ptr<Stopwatch> stopwatch;
  std::string clock;   // "cupti", "events"
  std::string reason;  // events: why not CUPTI
};

struct TimerOptions {
  Clock clock = Clock::kAuto;
  L2Mode mode = L2Mode::kFlush;
  Launch read_l2 = nullptr;
  std::size_t flush_bytes = L2State::kFlushBytes;
};

// `trial` as for KernelStopwatch. Throws Error{kUnsupported} for Clock::kCupti where it cannot be.
Timer open_timer(const runtime::Device& device, const TimerOptions& options, const Launch& trial);

}  // namespace kiln::tools

// How long launches take on the GPU, several compared in one process, interleaved.
//
// A round takes one sample of every contestant; rounds begin with another contestant each time.
// What drifts (clocks, temperature) therefore touches all of them alike.
//
// GraphStopwatch takes its samples with two events. Each contestant becomes one captured graph
//
//     put L2 into the state that the mode asks for -> event -> launch (hot: `count` of them) ->
//     event
//
// and a sample is one replay of it. The GPU works through the graph by itself, so the time of a
// launch call on the host is not in the interval. What the two events and the steps between nodes
// cost is: the same graph without a launch, replayed in the same rounds, gives the empty interval,
// and its median is subtracted from every sample. That corrects for the events, not for the start
// of a first kernel behind an event, so times of a few microseconds are upper bounds. The stopwatch
// of cupti.h has no such error.
//
// What is known of GPUs and L2 is in the stopwatches; compare() is arithmetic over the interface
// and takes any. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/device_memory.h"

namespace kiln::tools {

// Enqueues work on a stream that is being captured; may not wait, allocate or load.
using Launch = std::function<void(CUstream)>;

// flush  L2 full of written lines, which the launch also has to make room from
// clean  L2 full of lines that were only read: nothing of the operands, and nothing to write back
// hot    launches back to back, so that L2 holds what fits; per launch, overlap included
enum class L2Mode : std::uint8_t { kFlush, kClean, kHot };
std::string_view name(L2Mode value);                                  // "flush"
L2Mode parse_l2_mode(std::string_view text, std::string_view field);  // throws kInvalidArgument

class Stopwatch {
 public:
  virtual ~Stopwatch() = default;

  // Readies a contestant and returns its number; a null launch is the empty interval. Throws what
  // the launch throws, and Error{kDriverError}.
  virtual std::size_t add(const Launch& launch) = 0;
  // One sample of the interval around contestant `index`, in microseconds, nothing subtracted.
  virtual double sample_us(std::size_t index) = 0;
  // Launches inside an interval: what a sample is to be divided by.
  virtual int launches_per_sample() const = 0;
  // Forgets all contestants.
  virtual void clear() = 0;
};

struct Timing {
  double median_us = 0;
  double p10_us = 0, p90_us = 0;
  double best_us = 0;
  int samples = 0;
  // Half the distance from p10 to p90 over the median: what two equal versions may differ by.
  double noise() const { return median_us > 0 ? (p90_us - p10_us) / 2 / median_us : 0; }
};

// Of values in any order; at least one. Between two values the quantiles are interpolated.
Timing summarize(std::vector<double> samples_us);

struct MeasureOptions {
  int repeat = 30;   // samples of each contestant
  int warm_ups = 2;  // rounds before them that do not count
};

struct Comparison {
  std::vector<Timing> timings;  // of the contestants, in their order
  double empty_us = 0;          // the interval that was subtracted
};

// Clears the stopwatch before and after. A sample below the empty interval counts as 0.
Comparison compare(Stopwatch& stopwatch, std::span<const Launch> contestants,
                   const MeasureOptions& options);

// Puts L2 into the state that a mode asks for.
class L2State {
 public:
  // Beyond any L2.
  static constexpr std::size_t kFlushBytes = std::size_t{512} << 20;
  // What published times of FP8 kernels are usually flushed with. It takes 2 ms at 4 TB/s, and the
  // GPU's translation caches forget the operands too.
  static constexpr std::size_t kLongFlushBytes = 8'000'000'000;
  static constexpr std::size_t kCleanBytes = std::size_t{256} << 20;

  // `device` must outlive this. `read_l2` is what the clean mode needs: it reads at least
  // kCleanBytes and writes next to nothing; the other modes do not use it. `flush_bytes` of the
  // flush mode is cut to an eighth of the GPU's memory.
  L2State(const runtime::Device& device, L2Mode mode, Launch read_l2, std::size_t flush_bytes);

  L2Mode mode() const { return mode_; }
  // Also keeps a kernel enqueued behind it from starting before what is enqueued here has ended.
  void enqueue(CUstream stream) const;

 private:
  L2Mode mode_;
  Launch read_l2_;
  std::vector<runtime::DeviceBuffer> written_;
};

class GraphStopwatch final : public Stopwatch {
 public:
  // As L2State.
  GraphStopwatch(const runtime::Device& device, L2Mode mode, Launch read_l2 = nullptr,
                 std::size_t flush_bytes = L2State::kFlushBytes);

  std::size_t add(const Launch& launch) override;
  double sample_us(std::size_t index) override;
  int launches_per_sample() const override;
  void clear() override { graphs_.clear(); }

  static constexpr int kHotLaunches = 20;

 private:
  const runtime::Device& device_;
  L2State l2_;
  runtime::Stream stream_;
  runtime::Event begin_, end_;
  std::vector<runtime::Graph> graphs_;
};

}  // namespace kiln::tools

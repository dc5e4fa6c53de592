#include "tools/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>

#include "jit/error.h"

namespace kiln::tools {
namespace {

double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(place));
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - std::floor(place)) * (sorted[above] - sorted[below]);
}

}  // namespace

std::string_view name(L2Mode value) {
  switch (value) {
    case L2Mode::kFlush:
      return "flush";
    case L2Mode::kClean:
      return "clean";
    case L2Mode::kHot:
      return "hot";
  }
  return "";
}

L2Mode parse_l2_mode(std::string_view text, std::string_view field) {
  for (const L2Mode mode : {L2Mode::kFlush, L2Mode::kClean, L2Mode::kHot}) {
    if (text == name(mode)) return mode;
  }
  throw Error(Status::kInvalidArgument,
              fmt::format("{} must be flush, clean or hot, got \"{}\"", field, text));
}

Timing summarize(std::vector<double> samples_us) {
  assert(!samples_us.empty());
  std::sort(samples_us.begin(), samples_us.end());
  Timing timing;
  timing.median_us = quantile(samples_us, 0.5);
  timing.p10_us = quantile(samples_us, 0.1);
  timing.p90_us = quantile(samples_us, 0.9);
  timing.best_us = samples_us.front();
  timing.samples = static_cast<int>(samples_us.size());
  return timing;
}

Comparison compare(Stopwatch& stopwatch, std::span<const Launch> contestants,
                   const MeasureOptions& options) {
  // 1. Everyone, and the empty interval as the last.
  stopwatch.clear();
  std::vector<std::size_t> numbers;
  for (const Launch& launch : contestants) numbers.push_back(stopwatch.add(launch));
  numbers.push_back(stopwatch.add(nullptr));

  // 2. Rounds.
  std::vector<std::vector<double>> samples(numbers.size());
  const std::size_t count = numbers.size();
  for (int round = 0; round < options.warm_ups + options.repeat; ++round) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t who = (i + static_cast<std::size_t>(round)) % count;
      const double us = stopwatch.sample_us(numbers[who]);
      if (round >= options.warm_ups) samples[who].push_back(us);
    }
  }

  // 3. Times of one launch.
  Comparison result;
  result.empty_us = summarize(samples.back()).median_us;
  const int launches = stopwatch.launches_per_sample();
  for (std::size_t who = 0; who + 1 < count; ++who) {
    for (double& us : samples[who]) us = std::max(us - result.empty_us, 0.0) / launches;
    result.timings.push_back(summarize(std::move(samples[who])));
  }
  stopwatch.clear();
  return result;
}

L2State::L2State(const runtime::Device& device, L2Mode mode, Launch read_l2,
                 std::size_t flush_bytes)
    : mode_(mode), read_l2_(std::move(read_l2)) {
  assert(mode != L2Mode::kClean || read_l2_ != nullptr);
  constexpr std::size_t kChunkBytes = 1'000'000'000;  // so that nothing needs to lie in one piece
  constexpr std::size_t kDividerBytes = 256;
  std::size_t left = 0;
  if (mode == L2Mode::kFlush)
    left = std::min(flush_bytes, static_cast<std::size_t>(device.info().memory_bytes) / 8);
  if (mode == L2Mode::kClean) left = kDividerBytes;
  for (; left > 0; left -= written_.back().size())
    written_.emplace_back(device, std::min(left, kChunkBytes));
}

// The memset behind the reader is there because Kiln's kernels let the next kernel start before
// they have ended.
void L2State::enqueue(CUstream stream) const {
  if (mode_ == L2Mode::kClean) read_l2_(stream);
  for (const runtime::DeviceBuffer& buffer : written_) buffer.fill(0, stream);
}

GraphStopwatch::GraphStopwatch(const runtime::Device& device, L2Mode mode, Launch read_l2,
                               std::size_t flush_bytes)
    : device_(device),
      l2_(device, mode, std::move(read_l2), flush_bytes),
      stream_(device),
      begin_(device),
      end_(device) {}

int GraphStopwatch::launches_per_sample() const {
  return l2_.mode() == L2Mode::kHot ? kHotLaunches : 1;
}

std::size_t GraphStopwatch::add(const Launch& launch) {
  graphs_.emplace_back(device_, [&](CUstream stream) {
    l2_.enqueue(stream);
    // The launch before the first that counts brings the operands into L2.
    if (l2_.mode() == L2Mode::kHot && launch != nullptr) launch(stream);
    begin_.record_in_capture(stream);
    if (launch != nullptr) {
      for (int i = 0; i < launches_per_sample(); ++i) launch(stream);
    }
    end_.record_in_capture(stream);
  });
  return graphs_.size() - 1;
}

double GraphStopwatch::sample_us(std::size_t index) {
  graphs_.at(index).launch(stream_.get());
  return runtime::elapsed_us(begin_, end_);
}

}  // namespace kiln::tools

#include "tools/tune_compile.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

namespace kiln::tools {

CompileAhead::CompileAhead(int jobs, std::function<Compile()> make_compiler) {
  for (int i = 0; i < jobs; ++i) {
    threads_.emplace_back([this, make_compiler] { work(make_compiler); });
  }
}

CompileAhead::~CompileAhead() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void CompileAhead::work(const std::function<Compile()>& make_compiler) {
  const Compile compile = make_compiler();
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
    if (ending_) return;
    const jit::GemmSpec spec = waiting_.front();
    waiting_.pop_front();
    kernels_[spec].state = State::kBegun;
    lock.unlock();
    CompileOutcome outcome;
    try {
      outcome = compile(spec);
    } catch (const Error& error) {
      outcome = {0, error.what(), error.status()};
    } catch (const std::exception& error) {
      outcome.error = error.what();
    }
    lock.lock();
    kernels_[spec] = {State::kDone, std::move(outcome)};
    ++compiled_;
    changed_.notify_all();
  }
}

void CompileAhead::want(const std::vector<jit::GemmSpec>& specs) {
  {
    const std::lock_guard lock(mutex_);
    for (const jit::GemmSpec& spec : specs) {
      if (kernels_.try_emplace(spec).second) waiting_.push_back(spec);
    }
  }
  changed_.notify_all();
}

void CompileAhead::want_first(const std::vector<jit::GemmSpec>& specs) {
  {
    const std::lock_guard lock(mutex_);
    for (auto spec = specs.rbegin(); spec != specs.rend(); ++spec) {
      const bool is_new = kernels_.try_emplace(*spec).second;
      if (!is_new && std::erase(waiting_, *spec) == 0) continue;  // begun
      waiting_.push_front(*spec);
    }
  }
  changed_.notify_all();
}

void CompileAhead::forget_waiting() {
  const std::lock_guard lock(mutex_);
  for (const jit::GemmSpec& spec : waiting_) kernels_.erase(spec);
  waiting_.clear();
}

CompileOutcome CompileAhead::get(const jit::GemmSpec& spec) {
  std::unique_lock lock(mutex_);
  Kernel& kernel = kernels_[spec];  // a map's elements stay where they are
  if (kernel.state == State::kWaiting && (waiting_.empty() || waiting_.front() != spec)) {
    std::erase(waiting_, spec);
    waiting_.push_front(spec);
    changed_.notify_all();
  }
  changed_.wait(lock, [&kernel] { return kernel.state == State::kDone; });
  return kernel.outcome;
}

std::size_t CompileAhead::compiled() const {
  const std::lock_guard lock(mutex_);
  return compiled_;
}

jit::GemmSpec kernel_of(const jit::Problem& problem, const jit::Tile& tile) {
  return {jit::canonical(problem), tile};
}

void CompilingMeasurer::expect(const jit::Problem& problem, const std::vector<jit::Tile>& tiles) {
  std::vector<jit::GemmSpec> specs;
  for (const jit::Tile& tile : tiles) specs.push_back(kernel_of(problem, tile));
  compiler_.want_first(specs);
  next_.expect(problem, tiles);
}

TileMeasurement CompilingMeasurer::measure(const jit::Problem& problem, std::int64_t m,
                                           const jit::Tile& tile, int repeats) {
  const auto start = std::chrono::steady_clock::now();
  const CompileOutcome outcome = compiler_.get(kernel_of(problem, tile));
  waited_s_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  // In the journal it would hide the tile from later runs.
  if (!outcome.error.empty() && outcome.status != Status::kCompileFailed)
    throw Error(outcome.status, outcome.error);
  TileMeasurement failed;
  failed.error = outcome.error;
  if (failed.error.empty() && outcome.spill_bytes > max_spill_bytes_) {
    failed.error = fmt::format("the kernel spills {} bytes of registers, at most {} are accepted",
                               outcome.spill_bytes, max_spill_bytes_);
  }
  return failed.error.empty() ? next_.measure(problem, m, tile, repeats) : failed;
}

}  // namespace kiln::tools

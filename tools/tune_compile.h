// Compiling ahead of the measurements: kernels that will be wanted are made by several compilers at
// once while the GPU is busy with others.
//
// Each of `jobs` threads has a compiler of its own (in the CLI: a worker process, worker_pool.h)
// and takes the next kernel that nobody has begun. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "jit/error.h"
#include "jit/source.h"
#include "tools/tune_measure.h"

namespace kiln::tools {

struct CompileOutcome {
  int spill_bytes = 0;
  std::string error;                       // not empty: there is no kernel
  Status status = Status::kCompileFailed;  // with error; another: not this kernel's fault
};

class CompileAhead {
 public:
  using Compile = std::function<CompileOutcome(const jit::GemmSpec&)>;

  // `make_compiler` is called once in each thread.
  CompileAhead(int jobs, std::function<Compile()> make_compiler);
  // Ends what is under way, as far as the compilers let themselves be ended.
  ~CompileAhead();
  CompileAhead(const CompileAhead&) = delete;
  CompileAhead& operator=(const CompileAhead&) = delete;

  // Behind everything that is waiting. A kernel that is known already is not made again.
  void want(const std::vector<jit::GemmSpec>& specs);
  // Before everything that is waiting.
  void want_first(const std::vector<jit::GemmSpec>& specs);
  // What has not been begun is no longer wanted.
  void forget_waiting();
  // Waits for this kernel, which goes before all that wait.
  CompileOutcome get(const jit::GemmSpec& spec);
  std::size_t compiled() const;

 private:
  enum class State { kWaiting, kBegun, kDone };
  struct Kernel {
    State state = State::kWaiting;
    CompileOutcome outcome;
  };

  void work(const std::function<Compile()>& make_compiler);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<jit::GemmSpec> waiting_;
  std::map<jit::GemmSpec, Kernel> kernels_;
  std::size_t compiled_ = 0;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

// The kernel of a tile for a problem, on this GPU kind.
jit::GemmSpec kernel_of(const jit::Problem& problem, const jit::Tile& tile);

// Waits for the kernel before `next` measures it. One that does not compile, or spills more than
// `max_spill_bytes`, is an error of the measurement; no compiler, or no room on the disk, is
// thrown.
class CompilingMeasurer final : public Measurer {
 public:
  CompilingMeasurer(CompileAhead& compiler, int max_spill_bytes, Measurer& next)
      : compiler_(compiler), max_spill_bytes_(max_spill_bytes), next_(next) {}
  TileMeasurement measure(const jit::Problem& problem, std::int64_t m, const jit::Tile& tile,
                          int repeats) override;
  void expect(const jit::Problem& problem, const std::vector<jit::Tile>& tiles) override;
  double waited_s() const { return waited_s_; }  // for compilers, in all

 private:
  CompileAhead& compiler_;
  int max_spill_bytes_;
  Measurer& next_;
  double waited_s_ = 0;
};

}  // namespace kiln::tools

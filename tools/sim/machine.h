// Runs a launch, cluster by cluster: the scheduler, and what the calls of kernel_side/api.h share.
#pragma once

#include <string_view>

#include "tools/sim/model.h"

namespace kiln::sim {

// A kernel that was compiled for the host, and how it is launched.
struct Launch {
  std::string name;
  void (*entry)(const void* params) = nullptr;
  const void* params = nullptr;
  std::string image;  // file of the compiled kernel, for looking up source lines
  const Region* regions = nullptr;
  kiln_sim::Index grid, block;
  std::uint32_t smem_bytes = 0;
  std::uint32_t cluster = 1;
  std::uint32_t registers = 0;  // per thread at the start
};

// What happened in a launch, for whoever wonders whether a test tests anything.
struct Statistics {
  std::uint64_t switches = 0, loads = 0, mmas = 0, stores = 0, copies = 0;
};

class Machine {
 public:
  Machine(GlobalMemory& global, const Launch& launch, std::uint64_t seed, StackPool& stacks);
  ~Machine();

  // All of the grid. Throws Fault.
  void run();
  const Statistics& statistics() const { return statistics_; }

  // ---- for the calls of a running thread ----

  // Lets others run, now and then.
  void maybe_yield();
  // Blocks until the condition holds; whoever changes it notifies the list.
  template <class Condition>
  void wait_until(WaitList& list, const Reason& reason, Condition condition) {
    while (!condition()) {
      current->reason = reason;
      list.push_back(current);
      suspend();
    }
    current->reason = {};
  }
  void notify(WaitList& list);
  bool chance(std::uint32_t one_in) { return random_.below(one_in) == 0; }

  void add(std::unique_ptr<AsyncOp> op);
  void add_ready(Warp* warp) { ready_mmas_.push_back(warp); }

  // All lanes of the warp meet; the value that each brought is in warp->out afterwards.
  void meet(Exchange kind, std::uint64_t value, const Where& where);
  void arrive_cluster();
  std::uint64_t cluster_generation() const { return cluster_generation_; }
  WaitList& cluster_waiting() { return cluster_waiting_; }
  const Clocks& cluster_met() const { return cluster_met_; }

  // ---- barriers ----
  Barrier& barrier_at(Cta& cta, std::uint32_t address, const Where& where);
  void arrive(Cta& cta, std::uint32_t address, std::uint32_t count, std::uint32_t bytes,
              const Where& where);
  // A load that `issuer` issued at `clock` has landed.
  void complete_bytes(Cta& cta, std::uint32_t address, std::uint32_t bytes, std::uint32_t issuer,
                      std::uint32_t clock);

  // ---- failures ----
  // The rule that was broken; place and thread are added. `by`: null for the running thread.
  [[noreturn]] void fail(const Where& where, const std::string& text);
  std::string name_of(const Cta& cta, std::uint32_t address) const;  // "full[2]", "a of stage 1"
  int piece_of(std::uint32_t address) const;  // number among all pieces of all regions, or -1
  std::string name_of(const Thread& thread) const;
  const AsyncOp* find_op(std::uint32_t serial) const;
  const AsyncOp* find_reader(const Cta& cta, std::uint32_t address) const;

  Thread* current = nullptr;
  GlobalMemory& global;
  std::vector<std::unique_ptr<Cta>> ctas;  // of the cluster
  const Launch& launch() const { return launch_; }
  // Threads are numbered through the cluster.
  std::uint32_t number_of(const Thread& thread) const {
    return thread.cta->rank * launch_.block.x + thread.number;
  }
  const Thread& thread(std::uint32_t number) const {
    return *ctas[number / launch_.block.x]->threads[number % launch_.block.x];
  }
  Statistics& statistics() { return statistics_; }

 private:
  void start_cluster(std::uint32_t first_block);
  void start_cta(std::uint32_t rank, std::uint32_t block);
  void start_thread(Cta& cta, std::uint32_t block, std::uint32_t number, bool slow);
  void run_cluster();
  void resume(Thread* thread);
  void suspend();
  Thread* pick_thread();
  bool step_some_op(bool any);
  void step(std::size_t kind);
  void thread_exits(Thread* thread);
  void cta_exits(Cta& cta);
  void maybe_end_cluster_barrier();
  void check_looks(const Cta& cta, std::uint32_t address, const Barrier& barrier);
  void maybe_complete(Cta& cta, std::uint32_t address, Barrier& barrier);
  [[noreturn]] void deadlock();
  std::string waits_of(const Thread& thread) const;
  void choose_policy();
  void remember_error();

  const Launch& launch_;
  Random random_;
  StackPool& stacks_;
  Statistics statistics_;
  std::vector<Thread*> runnable_;
  std::vector<std::unique_ptr<AsyncOp>> ready_[kOpKinds];
  std::vector<Warp*> ready_mmas_;
  std::uint32_t bias_[kOpKinds] = {};  // of 4096 steps, so many do such an operation
  std::uint32_t yield_one_in_ = 64;
  bool uses_priority_ = false, has_slow_lanes_ = false;
  std::uint32_t serial_ = 0;
  std::uint32_t alive_ = 0;
  std::uint32_t at_cluster_ = 0;
  std::uint64_t cluster_generation_ = 0;
  WaitList cluster_waiting_;
  Clocks cluster_meeting_, cluster_met_;
  std::string error_;
};

extern Machine* machine;  // the one that runs

// "gemm.cuh:160"
std::string name_of(const Where& where);

// Return addresses in the kernel, innermost first.
std::vector<void*> call_chain();
// Innermost first: "wait (pipeline.cuh:29)". Empty without debug information or addr2line.
std::vector<std::vector<std::string>> symbolised(const std::string& image,
                                                 const std::vector<std::vector<void*>>& chains);
// The function that the kernel's body called: a role.
std::string role_of(const std::vector<std::string>& frames);
std::string joined(const std::vector<std::string>& frames);

}  // namespace kiln::sim

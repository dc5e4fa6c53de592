// The scheduler. What threads may do is in sync.cc, copy.cc and mma.cc; messages are in report.cc.
#include "tools/sim/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "tools/sim/mma.h"

namespace kiln_sim {
Self* self = nullptr;
}

namespace kiln::sim {

Machine* machine = nullptr;

void Groups::close() {
  pending.push_back(open);
  open = 0;
  ++closed;
}
void Groups::done(std::uint64_t group) {
  if (group == closed) {
    --open;
  } else {
    --pending[pending.size() - (closed - group)];
  }
  while (!pending.empty() && pending.front() == 0) pending.pop_front();
}
bool Groups::at_most(std::uint32_t groups) const {
  for (std::size_t i = 0; i + groups < pending.size(); ++i)
    if (pending[i] != 0) return false;
  return true;
}
bool Groups::idle() const {
  return open == 0 && std::all_of(pending.begin(), pending.end(), [](auto n) { return n == 0; });
}

Machine::Machine(GlobalMemory& global, const Launch& launch, std::uint64_t seed, StackPool& stacks)
    : global(global), launch_(launch), random_(seed), stacks_(stacks) {
  machine = this;
}
Machine::~Machine() {
  machine = nullptr;
  kiln_sim::self = nullptr;
}

// How eager asynchronous work is, and who runs first, is drawn anew for each cluster: some runs do
// everything as soon as possible, some as late as possible, most are mixed.
void Machine::choose_policy() {
  constexpr std::uint32_t kBias[] = {0, 0, 4, 64, 512, 2048};
  for (std::uint32_t& bias : bias_) bias = kBias[random_.below(6)];
  constexpr std::uint32_t kYield[] = {8, 64, 1024, 1u << 20};
  yield_one_in_ = kYield[random_.below(4)];
  uses_priority_ = chance(2);
  has_slow_lanes_ = chance(2);
}

void Machine::run() {
  const std::uint32_t blocks = launch_.grid.x * launch_.grid.y;
  std::vector<std::uint32_t> clusters(blocks / launch_.cluster);
  std::iota(clusters.begin(), clusters.end(), 0);
  for (std::size_t i = clusters.size(); i > 1; --i)
    std::swap(clusters[i - 1], clusters[random_.below(static_cast<std::uint32_t>(i))]);
  for (const std::uint32_t cluster : clusters) {
    choose_policy();
    start_cluster(cluster * launch_.cluster);
    try {
      run_cluster();
    } catch (...) {
      ctas.clear();  // unfinished fibers are unwound
      stacks_.forget();
      throw;
    }
  }
}

// ---- starting ----

void Machine::start_cluster(std::uint32_t first_block) {
  ctas.clear();
  runnable_.clear();
  alive_ = at_cluster_ = 0;
  cluster_generation_ = 0;
  cluster_meeting_.clear();
  cluster_met_.clear();
  for (std::uint32_t rank = 0; rank < launch_.cluster; ++rank) start_cta(rank, first_block + rank);
}

void Machine::start_cta(std::uint32_t rank, std::uint32_t block) {
  Cta& cta = *ctas.emplace_back(std::make_unique<Cta>());
  cta.rank = rank;
  cta.shared.reset(launch_.smem_bytes);
  cta.order.reset(launch_.smem_bytes);
  // One lane of every warp, or of one alone: then it is late for what the others have done.
  const std::uint32_t slow_warp = chance(4) ? launch_.block.x : random_.below(launch_.block.x / 32);
  std::uint32_t slow_lane = 0;
  for (std::uint32_t i = 0; i < launch_.block.x; ++i) {
    if (i % 32 == 0) {
      slow_lane = random_.below(32);
      Warp& warp = *cta.warps.emplace_back(std::make_unique<Warp>());
      warp.cta = &cta;
      warp.number = i / 32;
      warp.priority = random_.next();
      warp.registers = launch_.registers;
    }
    const bool slow = i % 32 == slow_lane && (slow_warp == launch_.block.x || slow_warp == i / 32);
    start_thread(cta, block, i, has_slow_lanes_ && slow);
  }
  cta.alive = launch_.block.x;
  alive_ += cta.alive;
}

void Machine::start_thread(Cta& cta, std::uint32_t block, std::uint32_t number, bool slow) {
  Thread& thread = *cta.threads.emplace_back(std::make_unique<Thread>());
  thread.thread = {number, 0, 0};
  thread.block = {block % launch_.grid.x, block / launch_.grid.x, 0};
  thread.block_size = launch_.block;
  thread.grid_size = launch_.grid;
  thread.cta = &cta;
  thread.warp = cta.warps.back().get();
  thread.number = number;
  thread.lane = number % 32;
  thread.slow = slow;
  thread.clocks.assign(launch_.cluster * launch_.block.x, 0);
  thread.clocks[number_of(thread)] = 1;
  thread.context = boost::context::fiber(std::allocator_arg, PooledStacks{&stacks_},
                                         [this, &thread](boost::context::fiber&& scheduler) {
                                           thread.scheduler = std::move(scheduler);
                                           try {
                                             launch_.entry(launch_.params);
                                             thread_exits(&thread);
                                           } catch (const Fault& fault) {
                                             error_ = fault.what();
                                           }
                                           return std::move(thread.scheduler);
                                         });
  runnable_.push_back(&thread);
}

// ---- running ----

void Machine::run_cluster() {
  while (alive_ > 0) {
    if (step_some_op(false)) continue;
    if (Thread* const thread = pick_thread()) {
      // A slow thread lets asynchronous work come first, as a rule.
      if (thread->slow && !chance(4096) && step_some_op(true)) {
        runnable_.push_back(thread);
      } else {
        resume(thread);
      }
    } else if (!step_some_op(true)) {
      deadlock();
    }
  }
  while (step_some_op(true)) {  // stores that nobody waits for
  }
}

Thread* Machine::pick_thread() {
  if (runnable_.empty()) return nullptr;
  const auto size = static_cast<std::uint32_t>(runnable_.size());
  std::uint32_t index = random_.below(size);
  for (int i = 0; has_slow_lanes_ && runnable_[index]->slow && i < 32; ++i)
    index = random_.below(size);
  if (uses_priority_) {
    const std::uint32_t other = random_.below(size);
    if (!runnable_[other]->slow &&
        runnable_[other]->warp->priority > runnable_[index]->warp->priority)
      index = other;
  }
  Thread* const thread = runnable_[index];
  runnable_[index] = runnable_.back();
  runnable_.pop_back();
  return thread;
}

void Machine::resume(Thread* thread) {
  ++statistics_.switches;
  current = thread;
  kiln_sim::self = thread;
  thread->context = std::move(thread->context).resume();
  current = nullptr;
  if (!error_.empty()) throw Fault(std::exchange(error_, {}));
}

void Machine::suspend() {
  Thread* const thread = current;
  thread->scheduler = std::move(thread->scheduler).resume();
  while (thread->reports) {
    thread->chain = call_chain();
    thread->reports = false;
    thread->scheduler = std::move(thread->scheduler).resume();
  }
}

void Machine::maybe_yield() {
  if (!chance(current->slow ? 2 : yield_one_in_)) return;
  runnable_.push_back(current);
  suspend();
}

void Machine::notify(WaitList& list) {
  runnable_.insert(runnable_.end(), list.begin(), list.end());
  list.clear();
}

// ---- asynchronous work ----

void Machine::add(std::unique_ptr<AsyncOp> op) {
  op->serial = ++serial_;
  ready_[static_cast<std::size_t>(op->kind)].push_back(std::move(op));
}

// Does one piece of work if it is the time; `any`: if there is any.
bool Machine::step_some_op(bool any) {
  constexpr auto kMma = static_cast<std::size_t>(OpKind::kMma);
  const std::uint32_t first = any ? random_.below(kOpKinds) : 0;
  for (std::size_t i = 0; i < kOpKinds; ++i) {
    const std::size_t kind = (first + i) % kOpKinds;
    if (kind == kMma ? ready_mmas_.empty() : ready_[kind].empty()) continue;
    if (!any && (bias_[kind] == 0 || random_.below(4096) >= bias_[kind])) continue;
    step(kind);
    return true;
  }
  return false;
}

void Machine::step(std::size_t kind) {
  if (kind == static_cast<std::size_t>(OpKind::kMma)) {
    const std::uint32_t i = random_.below(static_cast<std::uint32_t>(ready_mmas_.size()));
    Warp* const warp = ready_mmas_[i];
    ready_mmas_[i] = ready_mmas_.back();
    ready_mmas_.pop_back();
    return run_mma(*warp);
  }
  auto& ops = ready_[kind];
  const std::uint32_t i = random_.below(static_cast<std::uint32_t>(ops.size()));
  std::swap(ops[i], ops.back());
  std::unique_ptr<AsyncOp> op = std::move(ops.back());
  ops.pop_back();
  if (op->step()) ready_[static_cast<std::size_t>(op->kind)].push_back(std::move(op));
}

const AsyncOp* Machine::find_op(std::uint32_t serial) const {
  for (const auto& ops : ready_)
    for (const auto& op : ops)
      if (op->serial == serial) return op.get();
  return nullptr;
}

const AsyncOp* Machine::find_reader(const Cta& cta, std::uint32_t address) const {
  for (const auto& ops : ready_)
    for (const auto& op : ops)
      if (op->reads(cta, address)) return op.get();
  for (const auto& warp : cta.warps)
    for (const auto& op : warp->ops)
      if (op->reads(cta, address)) return op.get();
  return nullptr;
}

// ---- ending ----

void Machine::thread_exits(Thread* thread) {
  if (!thread->bulk.idle()) {
    fail({},
         "the thread ends while its bulk stores still read shared memory: end with "
         "cp.async.bulk.wait_group.read 0");
  }
  thread->exited = true;
  --alive_;
  maybe_end_cluster_barrier();
  if (--thread->cta->alive == 0) cta_exits(*thread->cta);
}

void Machine::cta_exits(Cta& cta) {
  for (const auto& [address, barrier] : cta.barriers) {
    if (barrier.in_flight > 0)
      fail({}, fmt::format("CTA {} of the cluster ends while {} loads that complete on {} are in "
                           "flight: nobody waited for them",
                           cta.rank, barrier.in_flight, name_of(cta, address)));
  }
}

void Machine::arrive_cluster() {
  current->cluster_generation = cluster_generation_;
  release(*current, cluster_meeting_);
  ++at_cluster_;
  maybe_end_cluster_barrier();
}

// Threads that have ended count as arrived.
void Machine::maybe_end_cluster_barrier() {
  if (at_cluster_ == 0 || at_cluster_ < alive_) return;
  at_cluster_ = 0;
  ++cluster_generation_;
  cluster_met_ = std::exchange(cluster_meeting_, {});
  notify(cluster_waiting_);
}

}  // namespace kiln::sim

// Barriers, warps, clusters and registers: the calls of kernel_side/api.h that move no data.
#include <fmt/format.h>

#include <utility>

#include "tools/sim/machine.h"
#include "tools/sim/shared.h"

namespace kiln::sim {

constexpr std::uint32_t kMaxBytes = (1u << 20) - 1;  // that a barrier can expect

Barrier& Machine::barrier_at(Cta& cta, std::uint32_t address, const Where& where) {
  if (address % 8 != 0 || !cta.shared.contains(address, 8))
    fail(where, fmt::format("{} is no place for an mbarrier: it must be 8 bytes of shared memory, "
                            "8-byte aligned",
                            name_of(cta, address)));
  const auto found = cta.barriers.find(address);
  if (found == cta.barriers.end())
    fail(where, fmt::format("the mbarrier {} is used before its initialisation is visible: "
                            "initialise it, fence, and let the CTA (or cluster) meet",
                            name_of(cta, address)));
  return found->second;
}

// A thread that waits for a phase must have seen it before the next one completes: later it would
// find the other parity again.
void Machine::check_looks(const Cta& cta, std::uint32_t address, const Barrier& barrier) {
  for (std::size_t i = 0; i < barrier.looks.size(); ++i) {
    const Barrier::Look& look = barrier.looks[i];
    if (look.phase != barrier.phase + 1) continue;
    const Thread& looker = *cta.threads[i];
    const std::uint32_t number = number_of(looker);
    if (number < barrier.arrived.size() && look.clock <= barrier.arrived[number]) continue;
    fail(look.where,
         fmt::format("{} completes a phase that nothing orders after warp {} lane {} "
                     "has waited for the one before: a thread that looks too late finds "
                     "the parity of the phase after next, and waits for ever",
                     name_of(cta, address), looker.warp->number, looker.lane));
  }
}

void Machine::maybe_complete(Cta& cta, std::uint32_t address, Barrier& barrier) {
  if (barrier.pending > 0) return;
  if (barrier.bytes < 0)
    fail({}, fmt::format("more bytes arrived on {} than were expected, by {}: the byte count of "
                         "expect-tx is too small",
                         name_of(cta, address), -barrier.bytes));
  if (barrier.bytes > 0) return;
  if (barrier.in_flight > 0)
    fail({}, fmt::format("{} completes its phase while {} loads that complete on it are in "
                         "flight: the byte count of expect-tx is too small",
                         name_of(cta, address), barrier.in_flight));
  check_looks(cta, address, barrier);
  barrier.pending = barrier.expected;
  ++barrier.phase;
  barrier.completed = std::exchange(barrier.arrived, {});
  notify(barrier.waiting);
}

void Machine::arrive(Cta& cta, std::uint32_t address, std::uint32_t count, std::uint32_t bytes,
                     const Where& where) {
  Barrier& barrier = barrier_at(cta, address, where);
  if (count == 0 || count > barrier.pending)
    fail(where, fmt::format("{} arrivals on {} of which {} are pending in this phase ({} in all): "
                            "somebody arrives too often",
                            count, name_of(cta, address), barrier.pending, barrier.expected));
  barrier.bytes += bytes;
  if (barrier.bytes > kMaxBytes)
    fail(where, fmt::format("{} expects {} bytes, at most {} are allowed", name_of(cta, address),
                            barrier.bytes, kMaxBytes));
  barrier.pending -= count;
  release(*current, barrier.arrived);
  maybe_complete(cta, address, barrier);
}

void Machine::complete_bytes(Cta& cta, std::uint32_t address, std::uint32_t bytes,
                             std::uint32_t issuer, std::uint32_t clock) {
  Barrier& barrier = cta.barriers.at(address);
  --barrier.in_flight;
  barrier.bytes -= bytes;
  barrier.arrived.resize(ctas.size() * launch_.block.x);
  barrier.arrived[issuer] = std::max(barrier.arrived[issuer], clock);
  maybe_complete(cta, address, barrier);
}

void Machine::meet(Exchange kind, std::uint64_t value, const Where& where) {
  Warp& warp = *current->warp;
  if (warp.arrived == 0) {
    warp.exchange = kind;
    warp.exchange_where = where;
  } else if (warp.exchange != kind) {
    fail(where, fmt::format("the lanes of a warp do different things at the same time: others are "
                            "at {}",
                            sim::name_of(warp.exchange_where)));
  }
  warp.in[current->lane] = value;
  warp.arrived |= 1u << current->lane;
  release(*current, warp.meeting);
  if (warp.arrived == 0xffffffffu) {
    std::copy_n(warp.in, 32, warp.out);
    warp.arrived = 0;
    ++warp.generation;
    warp.met.swap(warp.meeting);
    warp.meeting.assign(warp.met.size(), 0);
    notify(warp.waiting);
    return acquire(*current, warp.met);
  }
  const std::uint64_t generation = warp.generation;
  wait_until(warp.waiting, {Waiting::kWarp, 0, 0, where},
             [&] { return warp.generation != generation; });
  acquire(*current, warp.met);
}

}  // namespace kiln::sim

namespace kiln_sim {

using namespace kiln::sim;

void barrier_init(std::uint32_t address, std::uint32_t count, const Where& where) {
  Machine& m = *machine;
  address = own_offset(address, where);
  SharedMemory& shared = m.current->cta->shared;
  if (address % 8 != 0 || !shared.contains(address, 8))
    m.fail(where, fmt::format("mbarrier.init at {}: it must be 8 bytes of shared memory, 8-byte "
                              "aligned",
                              m.name_of(*m.current->cta, address)));
  if (count == 0 || count >= 1u << 20)
    m.fail(where, fmt::format("an mbarrier expects 1 to 2^20 - 1 arrivals, got {}", count));
  Barrier& barrier = m.current->cta->barriers[address];
  barrier = {};
  barrier.expected = barrier.pending = count;
  barrier.initialiser = m.current->number;
  shared.barrier[SharedMemory::word(address)] = shared.barrier[SharedMemory::word(address) + 1] = 1;
}

void barrier_init_fence() {
  for (auto& [address, barrier] : machine->current->cta->barriers)
    if (barrier.initialiser == machine->current->number) barrier.fenced = true;
}

void barrier_arrive(std::uint32_t barrier, std::uint32_t count, std::uint32_t bytes,
                    const Where& where) {
  machine->maybe_yield();
  machine->arrive(*machine->current->cta, own_offset(barrier, where), count, bytes, where);
}

void barrier_arrive_remote(std::uint32_t barrier, std::uint32_t rank, const Where& where) {
  Machine& m = *machine;
  m.maybe_yield();
  barrier = offset_in_cta(barrier);
  if (rank >= m.ctas.size())
    m.fail(where, fmt::format("an arrival in CTA {} of a cluster of {}", rank, m.ctas.size()));
  Cta& cta = *m.ctas[rank];
  if (cta.alive == 0)
    m.fail(where, fmt::format("an arrival on {} after that CTA has ended: a CTA must outlive the "
                              "last arrival of its peers",
                              m.name_of(cta, barrier)));
  if (!m.barrier_at(cta, barrier, where).fenced)
    m.fail(where, fmt::format("{} is used by the cluster without fence.mbarrier_init after its "
                              "initialisation",
                              m.name_of(cta, barrier)));
  m.arrive(cta, barrier, 1, 0, where);
}

// The thread has found the phase that it waited for.
static void look_at(Thread& thread, Barrier& barrier, const Where& where) {
  acquire(thread, barrier.completed);
  barrier.looks.resize(thread.cta->threads.size());
  barrier.looks[thread.number] = {barrier.phase + 1, thread.clocks[machine->number_of(thread)],
                                  where};
}

// Never waits: the phase may be one that nobody completes.
bool barrier_look(std::uint32_t address, std::uint32_t parity, const Where& where) {
  Machine& m = *machine;
  m.maybe_yield();
  Barrier& barrier = m.barrier_at(*m.current->cta, own_offset(address, where), where);
  if ((barrier.phase & 1) == (parity & 1)) return false;
  look_at(*m.current, barrier, where);
  return true;
}

bool barrier_try_wait(std::uint32_t address, std::uint32_t parity, const Where& where) {
  if (barrier_look(address, parity, where)) return true;
  Machine& m = *machine;
  address = own_offset(address, where);
  Barrier& barrier = m.barrier_at(*m.current->cta, address, where);
  const auto done = [&] { return (barrier.phase & 1) != (parity & 1); };
  if (m.chance(16)) return false;  // as when the time limit of the instruction is over
  m.wait_until(barrier.waiting, {Waiting::kBarrier, address, parity, where}, done);
  look_at(*m.current, barrier, where);
  return true;
}

void sync_threads(const Where& where) {
  Machine& m = *machine;
  Cta& cta = *m.current->cta;
  release(*m.current, cta.syncing);
  if (++cta.at_sync == cta.threads.size()) {
    cta.at_sync = 0;
    ++cta.sync_generation;
    cta.synced = std::exchange(cta.syncing, {});
    m.notify(cta.sync_waiting);
    return acquire(*m.current, cta.synced);
  }
  const std::uint64_t generation = cta.sync_generation;
  m.wait_until(cta.sync_waiting, {Waiting::kThreads, 0, 0, where},
               [&] { return cta.sync_generation != generation; });
  acquire(*m.current, cta.synced);
}

void named_barrier(std::uint32_t name, std::uint32_t threads, bool waits, const Where& where) {
  Machine& m = *machine;
  m.maybe_yield();
  if (threads % 32 != 0 || threads == 0)
    m.fail(where, fmt::format("a named barrier of {} threads: they must be whole warps", threads));
  Cta::NamedBarrier& barrier = m.current->cta->named[name];
  release(*m.current, barrier.meeting);
  const std::uint64_t generation = barrier.generation;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.generation;
    barrier.met = std::exchange(barrier.meeting, {});
    m.notify(barrier.waiting);
  } else if (waits) {
    m.wait_until(barrier.waiting, {Waiting::kThreads, 0, 0, where},
                 [&] { return barrier.generation != generation; });
  }
  if (waits) acquire(*m.current, barrier.met);
}

void barrier_arrive_at(std::uint32_t remote_barrier, const Where& where) {
  barrier_arrive_remote(remote_barrier, (remote_barrier >> kRankShift) - 1, where);
}

void cluster_arrive(const Where&) { machine->arrive_cluster(); }

void cluster_wait(const Where& where) {
  Machine& m = *machine;
  m.wait_until(m.cluster_waiting(), {Waiting::kCluster, 0, 0, where},
               [&] { return m.cluster_generation() > m.current->cluster_generation; });
  acquire(*m.current, m.cluster_met());
}

std::uint32_t cluster_rank() { return machine->current->cta->rank; }

void set_max_registers(std::uint32_t registers, bool increase, const Where& where) {
  Machine& m = *machine;
  if (registers < 24 || registers > 256 || registers % 8 != 0)
    m.fail(where, fmt::format("setmaxnreg takes a multiple of 8 in 24..256, got {}", registers));
  m.meet(Exchange::kRegisters, registers, where);
  Thread& thread = *m.current;
  Warp& warp = *thread.warp;
  Cta& cta = *thread.cta;
  const auto take = [&] {
    // Or another lane did it for the warp.
    if (increase ? warp.registers >= registers : warp.registers == registers) return true;
    const std::int64_t more = (std::int64_t{registers} - warp.registers) * 32;
    if (more > cta.free_registers) return false;
    cta.free_registers -= more;
    warp.registers = registers;
    return true;
  };
  if (!increase && registers > warp.registers)
    m.fail(where, fmt::format("setmaxnreg.dec to {} registers, more than the {} that the warp has",
                              registers, warp.registers));
  // An increase to less than the launch allotted asks for nothing.
  if (increase) {
    m.wait_until(cta.register_waiting, {Waiting::kRegisters, registers, 0, where}, take);
  } else {
    take();
    m.notify(cta.register_waiting);
  }
}

void grid_wait() { machine->current->waited = true; }

void sync_warp(const Where& where) { machine->meet(Exchange::kSync, 0, where); }

std::uint64_t shuffle(std::uint64_t value, std::uint32_t from, const Where& where) {
  machine->meet(Exchange::kShuffle, value, where);
  return machine->current->warp->out[from];
}

std::uint32_t ballot(bool value, const Where& where) {
  machine->meet(Exchange::kBallot, value ? 1 : 0, where);
  std::uint32_t bits = 0;
  for (std::uint32_t lane = 0; lane < 32; ++lane)
    bits |= static_cast<std::uint32_t>(machine->current->warp->out[lane]) << lane;
  return bits;
}

}  // namespace kiln_sim

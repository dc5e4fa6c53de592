// One cluster of CTAs: its threads as fibers, its barriers, and the asynchronous work in flight.
//
// Not thread-safe: one cluster runs at a time. A scheduler with a seed decides which thread runs
// next and when a piece of asynchronous work is done, as early or as late as the rules allow.
// Whoever breaks a rule gets a Fault, which ends the launch.
#pragma once

#include <array>
#include <boost/context/fiber.hpp>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "tools/sim/fiber_stacks.h"
#include "tools/sim/kernel_side/api.h"
#include "tools/sim/memory.h"
#include "tools/sim/order.h"
#include "tools/sim/random.h"
#include "tools/sim/tensor.h"

namespace kiln::sim {

using kiln_sim::Exchange;
using kiln_sim::MmaShape;
using kiln_sim::MmaType;
using kiln_sim::Region;
using kiln_sim::Self;
using kiln_sim::Where;

class Fault : public std::exception {
 public:
  explicit Fault(std::string text) : text_(std::move(text)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

struct Thread;
struct Warp;
struct Cta;
using WaitList = std::vector<Thread*>;

// What a thread waits for: text is made of it only when somebody asks.
enum class Waiting : std::uint8_t {
  kNothing,
  kBarrier,  // a: address, b: parity
  kThreads,  // __syncthreads
  kCluster,
  kWarp,
  kRegisters,  // a: how many
  kBulk,       // a: groups that may be pending
  kCopies,     // a: likewise
  kMma         // a: likewise
};
struct Reason {
  Waiting what = Waiting::kNothing;
  std::uint32_t a = 0, b = 0;
  Where where;
};

struct Barrier {
  std::uint32_t expected = 0, pending = 0;  // arrivals
  std::int64_t bytes = 0;                   // that are expected and did not come yet
  std::uint64_t phase = 0;                  // phases completed
  std::uint32_t in_flight = 0;              // loads that will complete on it
  bool fenced = false;
  std::uint32_t initialiser = 0;
  Clocks arrived, completed;  // of this phase so far, of the last one
  struct Look {
    std::uint64_t phase = 0;  // 1 + phases completed when the thread found what it waited for
    std::uint32_t clock = 0;
    Where where;
  };
  std::vector<Look> looks;  // the last of each thread of the CTA
  WaitList waiting;
};

// A piece of asynchronous work. step() does what is next; true: there is more to do.
enum class OpKind : std::uint8_t { kLoad, kMma, kStoreRead, kStoreWrite, kCopy };
inline constexpr std::size_t kOpKinds = 5;
class AsyncOp {
 public:
  AsyncOp(OpKind kind, Thread* issuer, const Where& where)
      : kind(kind), issuer(issuer), where(where) {}
  virtual ~AsyncOp() = default;
  virtual bool step() = 0;
  virtual std::string describe() const = 0;
  virtual bool reads(const Cta&, std::uint32_t /*address*/) const { return false; }

  OpKind kind;
  Thread* issuer;
  Where where;
  std::uint32_t serial = 0;
};

// Groups of a thread's bulk stores or small copies.
struct Groups {
  std::deque<std::uint32_t>
      pending;               // of each closed group, oldest first: pieces that are not done
  std::uint64_t closed = 0;  // groups ever closed; the open one has this number
  std::uint32_t open = 0;    // pieces of the open one
  WaitList waiting;

  std::uint64_t add() { return ++open, closed; }
  void close();
  void done(std::uint64_t group);
  bool at_most(std::uint32_t groups) const;  // oldest groups that are done do not count
  bool idle() const;
};

struct Thread : Self {
  Cta* cta = nullptr;
  Warp* warp = nullptr;
  std::uint32_t number = 0, lane = 0;
  boost::context::fiber context, scheduler;
  Reason reason;
  bool exited = false;
  bool waited = false;   // for the launch before
  bool slow = false;     // runs when hardly anything else can
  bool reports = false;  // shall write down its call chain and wait on
  std::vector<void*> chain;
  std::uint64_t cluster_generation = 0;
  Clocks clocks;
  std::vector<std::uint32_t> bulk_waits;  // by group: the clock when it was waited for
  Groups bulk, copies;
  std::vector<std::uint32_t> dirty_words;
};

// The accumulators of a warp while WGMMAs work on them: 16 rows of n columns.
struct Accumulators {
  std::uint32_t n = 0;
  std::uint64_t last_op = 0;
  std::vector<float> values;  // row by row
  float* registers[32] = {};
  std::uint32_t captured = 0, delivered = 0;  // lanes
};

struct MmaOp;
// Registers that a WGMMA in flight reads its A from, and what they held when it was issued.
struct HeldRegisters {
  const std::uint32_t* registers;
  std::array<std::uint32_t, 4> values;
  std::uint64_t op;  // number of the operation
};

struct Warp {
  Cta* cta = nullptr;
  std::uint32_t number = 0;
  std::uint32_t priority = 0;
  // Collective operations.
  Exchange exchange = Exchange::kSync;
  Where exchange_where;
  std::uint32_t arrived = 0;
  std::uint64_t generation = 0;
  std::uint64_t in[32] = {}, out[32] = {};
  WaitList waiting;
  // Registers of each thread.
  std::uint32_t registers = 0;
  // WGMMAs. Operation i of the warp is ops[i - done].
  std::deque<std::unique_ptr<MmaOp>> ops;
  std::uint64_t ops_done = 0;
  std::uint64_t issued[32] = {};          // by each lane
  std::vector<std::uint64_t> groups[32];  // ends of each lane's groups
  std::uint32_t fenced = 0;               // lanes
  std::vector<std::unique_ptr<Accumulators>> accumulators;
  std::vector<HeldRegisters> held[32];  // of each lane's operations in flight
  WaitList mma_waiting;
  std::vector<std::uint32_t>
      mma_waits;  // by operation: the first lane's clock when it was waited for
  Clocks meeting, met;
};

struct Cta {
  std::uint32_t rank = 0;
  SharedMemory shared;
  Order order;
  Clocks syncing, synced;
  std::unordered_map<std::uint32_t, Barrier> barriers;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<std::unique_ptr<Warp>> warps;
  std::uint32_t alive = 0;
  std::uint32_t at_sync = 0;
  std::uint64_t sync_generation = 0;
  WaitList sync_waiting;
  struct NamedBarrier {
    std::uint32_t arrived = 0;
    std::uint64_t generation = 0;
    Clocks meeting, met;
    WaitList waiting;
  };
  std::unordered_map<std::uint32_t, NamedBarrier> named;
  std::int64_t free_registers = 0;
  WaitList register_waiting;
};

}  // namespace kiln::sim

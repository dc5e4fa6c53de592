// What is ordered before what. Every thread has a vector clock; barriers, warps, CTAs and clusters
// hand clocks on. An access to shared memory must be ordered after each earlier one that it
// conflicts with, whatever the schedule happened to do: this finds a missing barrier also where
// nothing went wrong.
//
// Known: ordinary loads and stores by word (of a word's readers the last few), asynchronous writes
// and reads by line of 128 bytes. An asynchronous read lasts until somebody has waited for it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "tools/sim/kernel_side/api.h"

namespace kiln::sim {

struct Cta;
struct Thread;
struct Warp;

using Clocks = std::vector<std::uint32_t>;  // by thread of the cluster
void join(Clocks& to, const Clocks& from);  // the later of both, for each thread
void take_later(std::uint32_t* to, const std::uint32_t* from, std::size_t count);

// An access by a thread at a time of its own clock; clock 0: none.
struct Access {
  std::uint32_t thread = 0, clock = 0;
  kiln_sim::Where where;
};

struct WordOrder {
  Access write;
  std::array<Access, 3> reads;
};

inline constexpr std::size_t kMaxWarps = 32;  // of a CTA
struct LineOrder {
  Access write;  // asynchronous
  Access store;  // that reads it; clock: 1 + number of its bulk group
  std::array<std::uint32_t, kMaxWarps> mmas{};  // by warp: 1 + the last wgmma that reads it
  bool touched = false;                         // by ordinary accesses since the last of those
  std::array<WordOrder, 32> words;
};

class Order {
 public:
  void reset(std::uint32_t bytes);
  LineOrder& line(std::uint32_t address);

 private:
  std::vector<std::unique_ptr<LineOrder>> lines_;  // made when first used
};

// A thread hands its clock on, or takes one over.
void release(Thread& thread, Clocks& to);
void acquire(Thread& thread, const Clocks& from);

// Each throws Fault where something earlier conflicts, and remembers the access.
void order_load(Thread& thread, std::uint32_t address, std::uint32_t bytes,
                const kiln_sim::Where& where);
void order_store(Thread& thread, std::uint32_t address, std::uint32_t bytes,
                 const kiln_sim::Where& where);
// By TMA, into any CTA of the cluster.
void order_async_write(Thread& issuer, Cta& to, std::uint32_t address, std::uint32_t bytes,
                       const kiln_sim::Where& where);
void order_store_read(Thread& issuer, std::uint32_t address, std::uint32_t bytes,
                      std::uint64_t group, const kiln_sim::Where& where);
void order_mma_read(Warp& warp, std::uint32_t address, std::uint64_t op);
// The thread has waited for all but the newest bulk groups, a lane for WGMMAs before `until`.
void order_bulk_wait(Thread& thread, std::uint32_t pending);
void order_mma_wait(Warp& warp, std::uint64_t until, std::uint32_t clock);

}  // namespace kiln::sim

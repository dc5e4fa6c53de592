// What every access to shared memory must obey, and the ordinary ones.
#include "tools/sim/shared.h"

#include <fmt/format.h>

#include <cstring>

#include "tools/sim/machine.h"

namespace kiln::sim {
namespace {

std::string reader_of(const Cta& cta, std::uint32_t address) {
  const AsyncOp* const op = machine->find_reader(cta, address);
  return op != nullptr ? op->describe() : "an asynchronous read";
}

}  // namespace

std::uint32_t own_offset(std::uint32_t address, const Where& where) {
  const std::uint32_t rank = address >> kiln_sim::kRankShift, own = machine->current->cta->rank;
  if (rank != own)
    machine->fail(where, fmt::format("shared address {:#x} is CTA {}'s of the cluster, not this "
                                     "one's ({}): others' are reached through mapa",
                                     address, rank, own));
  return kiln_sim::offset_in_cta(address);
}

void check_range(const Cta& cta, std::uint32_t address, std::uint32_t bytes, std::uint32_t unit,
                 const char* what, const Where& where) {
  if (!cta.shared.contains(address, bytes))
    machine->fail(where,
                  fmt::format("{} of {} bytes at shared address {:#x} is outside the {} "
                              "bytes of the CTA's shared memory, which begin at {:#x}",
                              what, bytes, address, machine->launch().smem_bytes, kSharedBase));
  if (address % unit != 0)
    machine->fail(where, fmt::format("{} at {}: the address must be a multiple of {}", what,
                                     machine->name_of(cta, address), unit));
}

std::string filler_of(const Cta& cta, std::uint32_t word) {
  const AsyncOp* const op = machine->find_op(cta.shared.filling[word]);
  return op != nullptr ? op->describe() : "a copy";
}

void check_writable(const Cta& cta, std::uint32_t address, std::uint32_t bytes, const char* what,
                    const Where& where) {
  const SharedMemory& s = cta.shared;
  for (std::uint32_t w = SharedMemory::word(address); w < SharedMemory::word(address + bytes);
       ++w) {
    const std::uint32_t at = kSharedBase + w * 4;
    if (s.filling[w] != 0)
      machine->fail(where, fmt::format("overwritten too early: {} into {}, which {} is filling",
                                       what, machine->name_of(cta, at), filler_of(cta, w)));
    if (s.readers[w] != 0)
      machine->fail(where, fmt::format("overwritten too early: {} into {}, which {} still reads",
                                       what, machine->name_of(cta, at), reader_of(cta, at)));
    if (s.barrier[w] != 0)
      machine->fail(where, fmt::format("{} into the mbarrier {}", what, machine->name_of(cta, at)));
  }
}

void check_fenced(const Cta& cta, std::uint32_t address, std::uint32_t bytes, const char* what,
                  const Where& where) {
  const auto& dirty = cta.shared.dirty;
  for (std::uint32_t w = SharedMemory::word(address); w < SharedMemory::word(address + bytes);
       ++w) {
    if (dirty[w] != 0)
      machine->fail(where,
                    fmt::format("missing proxy fence: {} touches {}, which thread {} wrote by "
                                "an ordinary store without fence.proxy.async afterwards",
                                what, machine->name_of(cta, kSharedBase + w * 4), dirty[w] - 1));
  }
}

}  // namespace kiln::sim

namespace kiln_sim {

using namespace kiln::sim;

namespace {

// `filled`: all of it must have been written at some time.
void load(std::uint32_t address, void* to, std::uint32_t bytes, bool filled, const Where& where) {
  Machine& m = *machine;
  m.maybe_yield();
  address = own_offset(address, where);
  Cta& cta = *m.current->cta;
  check_range(cta, address, bytes, bytes, "a load", where);
  for (std::uint32_t w = SharedMemory::word(address); w < SharedMemory::word(address + bytes);
       ++w) {
    if (cta.shared.filling[w] != 0)
      m.fail(where, fmt::format("read too early: {} is being filled by {}", m.name_of(cta, address),
                                filler_of(cta, w)));
    if (filled && cta.shared.written[w] == 0)
      m.fail(where, fmt::format("read too early: {} was never written", m.name_of(cta, address)));
  }
  order_load(*m.current, address, bytes, where);
  std::memcpy(to, cta.shared.at(address), bytes);
}

// Lane l gives the address of row l % 8 of matrix l / 8, and has two elements of row l / 4 of each:
// calls access(address of these, number of the matrix).
template <class Access>
void for_matrices(std::uint32_t address, std::uint32_t count, const char* what, const Where& where,
                  Access access) {
  Machine& m = *machine;
  m.meet(Exchange::kShuffle, address, where);
  std::uint32_t rows[32];
  for (std::uint32_t lane = 0; lane < 32; ++lane)
    rows[lane] = static_cast<std::uint32_t>(m.current->warp->out[lane]);
  const std::uint32_t lane = m.current->lane;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t row = rows[i * 8 + lane / 4];
    check_range(*m.current->cta, own_offset(row, where), 16, 16, what, where);
    access(row + lane % 4 * 4, i);
  }
}

}  // namespace

void load_shared(std::uint32_t address, void* to, std::uint32_t bytes, const Where& where) {
  load(address, to, bytes, true, where);
}

void store_shared(std::uint32_t address, const void* from, std::uint32_t bytes,
                  const Where& where) {
  Machine& m = *machine;
  m.maybe_yield();
  address = own_offset(address, where);
  Thread& thread = *m.current;
  Cta& cta = *thread.cta;
  check_range(cta, address, bytes, bytes, "a store", where);
  check_writable(cta, address, bytes, "a store", where);
  order_store(thread, address, bytes, where);
  std::memcpy(cta.shared.at(address), from, bytes);
  for (std::uint32_t w = SharedMemory::word(address); w < SharedMemory::word(address + bytes);
       ++w) {
    cta.shared.written[w] = 1;
    if (cta.shared.dirty[w] == thread.number + 1) continue;
    cta.shared.dirty[w] = static_cast<std::uint16_t>(thread.number + 1);
    thread.dirty_words.push_back(w);
  }
}

void store_matrix(std::uint32_t address, const std::uint32_t* registers, std::uint32_t count,
                  const Where& where) {
  for_matrices(address, count, "stmatrix", where, [&](std::uint32_t at, std::uint32_t i) {
    store_shared(at, registers + i, 4, where);
  });
}

// Of an operand of a WGMMA: rows that are nobody's need not have been written.
void load_matrix(std::uint32_t address, std::uint32_t* registers, std::uint32_t count,
                 const Where& where) {
  for_matrices(address, count, "ldmatrix", where, [&](std::uint32_t at, std::uint32_t i) {
    load(at, registers + i, 4, false, where);
  });
}

}  // namespace kiln_sim

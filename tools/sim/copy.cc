// Copies between global and shared memory, and into the shared memory of other CTAs.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "tools/sim/machine.h"
#include "tools/sim/shared.h"

namespace kiln::sim {
namespace {

// The unit rows of a box are moved in. Calls visit(address, offset, bytes) for each run of bytes
// that stays together in shared memory.
template <class Visit>
void for_units(const TensorMap& map, std::uint32_t start, std::uint32_t row, Visit visit) {
  const std::uint32_t row_bytes = map.box[0] * map.element_bytes;
  if (map.swizzle_bytes == 0) return visit(start + row * row_bytes, 0, row_bytes);
  for (std::uint32_t i = 0; i < row_bytes; i += 16)
    visit(swizzled(start + row * row_bytes + i, map.swizzle_bytes), i, 16);
}

std::uint32_t box_bytes(const TensorMap& map) {
  return map.box[0] * box_rows(map) * map.element_bytes;
}

const TensorMap& map_at(const void* address, std::uint32_t rank, const Where& where) {
  const auto& map = *static_cast<const TensorMap*>(address);
  if (map.magic != kTensorMapMagic)
    machine->fail(where,
                  "what is given as a tensor map is none: it was not made by "
                  "cuTensorMapEncodeTiled");
  if (rank != 0 && map.rank != rank)
    machine->fail(where, fmt::format("a {}-D access through a {}-D tensor map", rank, map.rank));
  return map;
}

void check_global(const BoxRow& row, const AsyncOp& op) {
  if (row.bytes == 0 || machine->global.contains(row.global + 0, row.bytes)) return;
  machine->fail(op.where,
                fmt::format("{} leaves the tensor's memory: {} bytes at {}", op.describe(),
                            row.bytes, machine->global.describe(row.global)));
}

std::string box_text(const TensorMap& map, const std::int32_t* at) {
  return map.rank == 2 ? fmt::format("{{{}, {}}}", at[0], at[1])
                       : fmt::format("{{{}, {}, {}}}", at[0], at[1], at[2]);
}

class LoadOp : public AsyncOp {
 public:
  LoadOp(Cta& cta, std::uint32_t to, const TensorMap& map, const std::uint32_t* at,
         std::uint32_t barrier, const Where& where)
      : AsyncOp(OpKind::kLoad, machine->current, where),
        cta_(cta),
        to_(to),
        map_(map),
        barrier_(barrier),
        clock_(issuer->clocks[machine->number_of(*issuer)]) {
    std::copy_n(at, map.rank, at_);
  }

  bool step() override {
    const std::uint32_t row_bytes = map_.box[0] * map_.element_bytes;
    thread_local std::vector<char> bytes;
    bytes.resize(row_bytes);
    for (std::uint32_t row = 0; row < box_rows(map_); ++row) {
      const BoxRow from = box_row(map_, at_, row);
      check_global(from, *this);
      std::fill(bytes.begin(), bytes.end(), 0);
      if (from.bytes > 0) std::memcpy(bytes.data() + from.before, from.global, from.bytes);
      for_units(map_, to_, row, [&](std::uint32_t address, std::uint32_t i, std::uint32_t count) {
        std::memcpy(cta_.shared.at(address), bytes.data() + i, count);
      });
      if (row_bytes == kLineBytes)
        cta_.shared.lines[(to_ + row * row_bytes - kSharedBase) / kLineBytes] = {
            serial, row, static_cast<std::uint8_t>(map_.swizzle_bytes)};
    }
    const std::uint32_t first = SharedMemory::word(to_), words = box_bytes(map_) / 4;
    std::fill_n(cta_.shared.filling.begin() + first, words, 0);
    std::fill_n(cta_.shared.written.begin() + first, words, 1);
    machine->complete_bytes(cta_, barrier_, box_bytes(map_), machine->number_of(*issuer), clock_);
    return false;
  }

  std::string describe() const override {
    return fmt::format("the TMA load of {} into {} issued at {}", box_text(map_, at_),
                       machine->name_of(cta_, to_), sim::name_of(where));
  }

  void start() {
    std::fill_n(cta_.shared.filling.begin() + SharedMemory::word(to_), box_bytes(map_) / 4, serial);
    ++cta_.barriers.at(barrier_).in_flight;
  }

 private:
  Cta& cta_;
  std::uint32_t to_;
  TensorMap map_;
  std::int32_t at_[3] = {};
  std::uint32_t barrier_;
  std::uint32_t clock_;  // of the issuer
};

// First it reads shared memory, then, much later perhaps, it writes global memory.
class StoreOp : public AsyncOp {
 public:
  StoreOp(const TensorMap& map, const std::uint32_t* at, std::uint32_t from, bool add,
          std::uint64_t group, const Where& where)
      : AsyncOp(OpKind::kStoreRead, machine->current, where),
        cta_(*issuer->cta),
        from_(from),
        map_(map),
        add_(add),
        group_(group),
        bytes_(box_bytes(map)) {
    std::copy_n(at, map.rank, at_);
  }

  bool step() override {
    if (kind == OpKind::kStoreRead) {
      read();
      kind = OpKind::kStoreWrite;
      return true;
    }
    write();
    return false;
  }

  std::string describe() const override {
    return fmt::format("the TMA {} of {} from {} issued at {}", add_ ? "reduction" : "store",
                       box_text(map_, at_), machine->name_of(cta_, from_), sim::name_of(where));
  }
  bool reads(const Cta& cta, std::uint32_t address) const override {
    return kind == OpKind::kStoreRead && &cta == &cta_ && address >= from_ &&
           address < from_ + bytes_.size();
  }

 private:
  void read() {
    const std::uint32_t row_bytes = map_.box[0] * map_.element_bytes;
    for (std::uint32_t row = 0; row < box_rows(map_); ++row)
      for_units(map_, from_, row, [&](std::uint32_t address, std::uint32_t i, std::uint32_t count) {
        std::memcpy(bytes_.data() + row * row_bytes + i, cta_.shared.at(address), count);
      });
    const std::uint32_t first = SharedMemory::word(from_);
    for (std::uint32_t w = first; w < first + bytes_.size() / 4; ++w) --cta_.shared.readers[w];
    issuer->bulk.done(group_);
    machine->notify(issuer->bulk.waiting);
  }

  void write() {
    const std::uint32_t row_bytes = map_.box[0] * map_.element_bytes;
    for (std::uint32_t row = 0; row < box_rows(map_); ++row) {
      const BoxRow to = box_row(map_, at_, row);
      check_global(to, *this);
      if (to.bytes == 0) continue;
      const char* const from = bytes_.data() + row * row_bytes + to.before;
      if (!add_) {
        std::memcpy(to.global, from, to.bytes);
        continue;
      }
      for (std::uint32_t i = 0; i < to.bytes; i += 4) {
        float value, sum;
        std::memcpy(&value, from + i, 4);
        std::memcpy(&sum, to.global + i, 4);
        sum += value;
        std::memcpy(to.global + i, &sum, 4);
      }
    }
  }

  Cta& cta_;
  std::uint32_t from_;
  TensorMap map_;
  std::int32_t at_[3] = {};
  bool add_;
  std::uint64_t group_;
  std::vector<char> bytes_;
};

class CopyOp : public AsyncOp {
 public:
  CopyOp(std::uint32_t to, const void* from, std::uint32_t bytes, bool valid, std::uint64_t group,
         const Where& where)
      : AsyncOp(OpKind::kCopy, machine->current, where),
        to_(to),
        from_(from),
        bytes_(bytes),
        valid_(valid),
        group_(group) {}

  bool step() override {
    SharedMemory& shared = issuer->cta->shared;
    if (valid_) {
      std::memcpy(shared.at(to_), from_, bytes_);
    } else {
      std::memset(shared.at(to_), 0, bytes_);
    }
    for (std::uint32_t w = SharedMemory::word(to_); w < SharedMemory::word(to_ + bytes_); ++w) {
      shared.filling[w] = 0;
      shared.written[w] = 1;
    }
    issuer->copies.done(group_);
    machine->notify(issuer->copies.waiting);
    return false;
  }
  std::string describe() const override {
    return fmt::format("the cp.async into {} issued at {}", machine->name_of(*issuer->cta, to_),
                       sim::name_of(where));
  }

 private:
  std::uint32_t to_;
  const void* from_;
  std::uint32_t bytes_;
  bool valid_;
  std::uint64_t group_;
};

// Sixteen bytes for another CTA.
class RemoteStoreOp : public AsyncOp {
 public:
  RemoteStoreOp(Cta& cta, std::uint32_t to, const float (&values)[4], std::uint32_t barrier,
                const Where& where)
      : AsyncOp(OpKind::kCopy, machine->current, where),
        cta_(cta),
        to_(to),
        barrier_(barrier),
        clock_(issuer->clocks[machine->number_of(*issuer)]) {
    std::copy_n(values, 4, values_);
  }

  void start() {
    std::fill_n(cta_.shared.filling.begin() + SharedMemory::word(to_), 4, serial);
    ++cta_.barriers.at(barrier_).in_flight;
  }
  bool step() override {
    std::memcpy(cta_.shared.at(to_), values_, sizeof values_);
    std::fill_n(cta_.shared.filling.begin() + SharedMemory::word(to_), 4, 0);
    std::fill_n(cta_.shared.written.begin() + SharedMemory::word(to_), 4, 1);
    machine->complete_bytes(cta_, barrier_, sizeof values_, machine->number_of(*issuer), clock_);
    return false;
  }
  std::string describe() const override {
    return fmt::format("the st.async into {} issued at {}", machine->name_of(cta_, to_),
                       sim::name_of(where));
  }

 private:
  Cta& cta_;
  std::uint32_t to_;
  float values_[4];
  std::uint32_t barrier_;
  std::uint32_t clock_;  // of the issuer
};

// In a dependent launch the one before may still be writing.
void check_waited(const char* what, const Where& where) {
  if (!machine->current->waited)
    machine->fail(where,
                  fmt::format("{} before griddepcontrol.wait: the launch before may still be "
                              "writing what it touches",
                              what));
}

void start_load(Cta& cta, std::uint32_t to, const TensorMap& map, const std::uint32_t* at,
                std::uint32_t barrier, const Where& where) {
  Machine& m = *machine;
  if (cta.alive == 0)
    m.fail(where, fmt::format("a multicast load into CTA {} after it has ended: a CTA must outlive "
                              "what its peers send",
                              cta.rank));
  check_range(cta, to, box_bytes(map), 128, "a TMA load", where);
  if (!m.barrier_at(cta, barrier, where).fenced)
    m.fail(where, fmt::format("a TMA load completes on {}, which was initialised without "
                              "fence.mbarrier_init",
                              m.name_of(cta, barrier)));
  check_writable(cta, to, box_bytes(map), "a TMA load", where);
  check_fenced(cta, to, box_bytes(map), "a TMA load", where);
  order_async_write(*m.current, cta, to, box_bytes(map), where);
  auto op = std::make_unique<LoadOp>(cta, to, map, at, barrier, where);
  LoadOp& load = *op;
  m.add(std::move(op));
  load.start();
  ++m.statistics().loads;
}

}  // namespace
}  // namespace kiln::sim

namespace kiln_sim {

using namespace kiln::sim;

void tma_prefetch(const void* map, const Where& where) { map_at(map, 0, where); }

void tma_load(std::uint32_t to, const void* address, const std::uint32_t* at, std::uint32_t rank,
              std::uint32_t barrier, std::uint32_t mask, const Where& where) {
  Machine& m = *machine;
  m.maybe_yield();
  check_waited("a TMA load", where);
  to = own_offset(to, where);
  barrier = own_offset(barrier, where);
  const kiln::sim::TensorMap& map = map_at(address, rank, where);
  if (at[0] * map.element_bytes % 16 != 0)
    m.fail(where, fmt::format("a TMA load from column {} of {}-byte elements: the first coordinate "
                              "must be a multiple of 16 bytes",
                              at[0], map.element_bytes));
  if (mask >> m.ctas.size() != 0)
    m.fail(where, fmt::format("a multicast to CTAs {:#x} of a cluster of {}", mask, m.ctas.size()));
  if (mask == 0) mask = 1u << m.current->cta->rank;
  for (std::uint32_t rank_of_cta = 0; rank_of_cta < m.ctas.size(); ++rank_of_cta)
    if (mask >> rank_of_cta & 1) start_load(*m.ctas[rank_of_cta], to, map, at, barrier, where);
}

void tma_store(const void* address, const std::uint32_t* at, std::uint32_t rank, std::uint32_t from,
               bool add, const Where& where) {
  Machine& m = *machine;
  m.maybe_yield();
  check_waited("a TMA store", where);
  from = own_offset(from, where);
  const kiln::sim::TensorMap& map = map_at(address, rank, where);
  Cta& cta = *m.current->cta;
  const std::uint32_t bytes = box_bytes(map);
  if (add && map.is_f32 == 0)
    m.fail(where,
           "the simulator does not model cp.reduce.async.bulk.tensor of other types than FP32");
  check_range(cta, from, bytes, 128, "a TMA store", where);
  check_fenced(cta, from, bytes, "a TMA store", where);
  for (std::uint32_t w = SharedMemory::word(from); w < SharedMemory::word(from + bytes); ++w) {
    if (cta.shared.filling[w] != 0)
      m.fail(where, fmt::format("read too early: a TMA store from {}, which {} is filling",
                                m.name_of(cta, from), filler_of(cta, w)));
    if (cta.shared.written[w] == 0)
      m.fail(where, fmt::format("a TMA store from {}, where nothing was ever written",
                                m.name_of(cta, kSharedBase + w * 4)));
    ++cta.shared.readers[w];
  }
  const std::uint64_t group = m.current->bulk.add();
  order_store_read(*m.current, from, bytes, group, where);
  m.add(std::make_unique<StoreOp>(map, at, from, add, group, where));
  ++m.statistics().stores;
}

void bulk_commit() { machine->current->bulk.close(); }

void bulk_wait_read(std::uint32_t pending, const Where& where) {
  Groups& groups = machine->current->bulk;
  machine->wait_until(groups.waiting, {Waiting::kBulk, pending, 0, where},
                      [&] { return groups.at_most(pending); });
  order_bulk_wait(*machine->current, pending);
}

void proxy_fence() {
  Thread& thread = *machine->current;
  auto& dirty = thread.cta->shared.dirty;
  for (const std::uint32_t word : thread.dirty_words)
    if (dirty[word] == thread.number + 1) dirty[word] = 0;
  thread.dirty_words.clear();
}

void copy_async(std::uint32_t to, const void* from, std::uint32_t bytes, bool valid,
                const Where& where) {
  Machine& m = *machine;
  m.maybe_yield();
  check_waited("cp.async", where);
  to = own_offset(to, where);
  Cta& cta = *m.current->cta;
  check_range(cta, to, bytes, bytes, "cp.async", where);
  if (valid && reinterpret_cast<std::uintptr_t>(from) % bytes != 0)
    m.fail(where,
           fmt::format("cp.async of {} bytes from {}: the address must be a multiple of them",
                       bytes, from));
  if (valid && !m.global.contains(from, bytes))
    m.fail(where, fmt::format("cp.async of {} bytes reads outside device memory: {}", bytes,
                              m.global.describe(from)));
  check_writable(cta, to, bytes, "cp.async", where);
  order_store(*m.current, to, bytes, where);
  auto op = std::make_unique<CopyOp>(to, from, bytes, valid, m.current->copies.add(), where);
  CopyOp& copy = *op;
  m.add(std::move(op));
  for (std::uint32_t w = SharedMemory::word(to); w < SharedMemory::word(to + bytes); ++w)
    cta.shared.filling[w] = copy.serial;
  ++m.statistics().copies;
}

void store_async(std::uint32_t remote, const float (&values)[4], std::uint32_t remote_barrier,
                 const Where& where) {
  Machine& m = *machine;
  m.maybe_yield();
  const std::uint32_t rank = (remote >> kRankShift) - 1;
  const std::uint32_t to = offset_in_cta(remote), barrier = offset_in_cta(remote_barrier);
  if (rank >= m.ctas.size() || remote >> kRankShift != remote_barrier >> kRankShift)
    m.fail(where,
           fmt::format("a st.async to {:#x} that completes on {:#x}: both must be mapa's, of "
                       "one CTA of the cluster of {}",
                       remote, remote_barrier, m.ctas.size()));
  Cta& cta = *m.ctas[rank];
  if (cta.alive == 0)
    m.fail(where, fmt::format("a st.async into CTA {} after it has ended: a CTA must outlive what "
                              "its peers send",
                              rank));
  check_range(cta, to, 16, 16, "a st.async", where);
  if (!m.barrier_at(cta, barrier, where).fenced)
    m.fail(where, fmt::format("a st.async completes on {}, which was initialised without "
                              "fence.mbarrier_init",
                              m.name_of(cta, barrier)));
  check_writable(cta, to, 16, "a st.async", where);
  auto op = std::make_unique<RemoteStoreOp>(cta, to, values, barrier, where);
  RemoteStoreOp& store = *op;
  m.add(std::move(op));
  store.start();
  ++m.statistics().copies;
}

void copy_async_commit() { machine->current->copies.close(); }

void copy_async_wait(std::uint32_t pending, const Where& where) {
  Groups& groups = machine->current->copies;
  machine->wait_until(groups.waiting, {Waiting::kCopies, pending, 0, where},
                      [&] { return groups.at_most(pending); });
}

}  // namespace kiln_sim

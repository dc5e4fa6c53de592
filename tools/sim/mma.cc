#include "tools/sim/mma.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "tools/sim/machine.h"
#include "tools/sim/shared.h"

namespace kiln::sim {
namespace {

constexpr std::uint32_t kUnits = 2;  // of a row

std::uint32_t k_count(MmaType type) { return type == MmaType::kTf32 ? 8 : 32; }

Operand decode(std::uint64_t descriptor, std::uint32_t first_row, std::uint32_t rows,
               const Where& where) {
  constexpr std::uint32_t kSpans[] = {0, 128, 64, 32};
  const auto field = [&](int shift, std::uint64_t mask) {
    return static_cast<std::uint32_t>(descriptor >> shift & mask);
  };
  if (field(49, 7) != 0)
    machine->fail(where, "the simulator does not model wgmma descriptors with a base offset");
  return {field(0, 0x3fff) << 4,
          field(32, 0x3fff) << 4,
          field(16, 0x3fff) << 4,
          kSpans[field(62, 3)],
          first_row,
          rows};
}

// The operand's rows must be consecutive rows of what TMA wrote, in the swizzle that it wrote.
void check_lines(const Cta& cta, const Operand& o, const char* name, const Where& where) {
  const auto line_of = [&](std::uint32_t row) -> const Line& {
    return cta.shared.lines[(o.line(row) - kSharedBase) / kLineBytes];
  };
  for (std::uint32_t row = 0; row < o.rows; ++row) {
    const Line& line = line_of(row);
    if (line.load == 0) continue;
    if (line.swizzle != o.span)
      machine->fail(where,
                    fmt::format("operand {} of wgmma is read with a swizzle of {} bytes, but "
                                "{} was written with one of {}",
                                name, o.span, machine->name_of(cta, o.line(row)), line.swizzle));
    if (row == 0) continue;
    const Line& before = line_of(row - 1);
    if (before.load == line.load && before.row + 1 != line.row)
      machine->fail(where,
                    fmt::format("row {} of operand {} of wgmma is row {} of the box that TMA "
                                "loaded, and the row before it is row {}: the stride of the "
                                "descriptor ({} bytes for 8 rows) is wrong",
                                row, name, line.row, before.row, o.stride));
  }
}

void check_unit(Cta& cta, std::uint32_t address, const char* name, const Where& where) {
  SharedMemory& shared = cta.shared;
  const std::uint32_t first = SharedMemory::word(address);
  for (std::uint32_t w = first; w < first + 4; ++w) {
    if (shared.filling[w] != 0)
      machine->fail(where, fmt::format("read too early: operand {} of wgmma, {}, is being filled "
                                       "by {}",
                                       name, machine->name_of(cta, address), filler_of(cta, w)));
    if (shared.dirty[w] != 0)
      machine->fail(where, fmt::format("missing proxy fence: wgmma reads {} (operand {}), which "
                                       "thread {} wrote by an ordinary store without "
                                       "fence.proxy.async afterwards",
                                       machine->name_of(cta, address), name, shared.dirty[w] - 1));
  }
}

// Notes what the operation will read; `filled`: all of it must have been written at some time.
void start_reading(Cta& cta, const Operand& o, const char* name, bool filled, const Where& where) {
  if (o.rows == 0) return;
  const std::uint32_t last = o.line(o.rows - 1);
  for (const std::uint32_t address :
       {o.unit(0, 0), o.unit(0, 1), o.unit(o.rows - 1, 0), o.unit(o.rows - 1, 1)}) {
    if (!cta.shared.contains(address, 16))
      machine->fail(where,
                    fmt::format("operand {} of wgmma reads shared address {:#x}, outside the "
                                "{} bytes of the CTA's shared memory",
                                name, address, cta.shared.size()));
  }
  if (machine->piece_of(o.line(0)) != machine->piece_of(last))
    machine->fail(where,
                  fmt::format("operand {} of wgmma begins in {} and ends in {}: the "
                              "descriptor's address or stride is wrong",
                              name, machine->name_of(cta, o.line(0)), machine->name_of(cta, last)));
  check_lines(cta, o, name, where);
  for (std::uint32_t row = 0; row < o.rows; ++row) {
    for (std::uint32_t u = 0; u < kUnits; ++u) {
      const std::uint32_t address = o.unit(row, u), word = SharedMemory::word(address);
      check_unit(cta, address, name, where);
      if (filled && cta.shared.written[word] == 0)
        machine->fail(where, fmt::format("read too early: operand {} of wgmma, {}, was never "
                                         "filled",
                                         name, machine->name_of(cta, address)));
      for (std::uint32_t w = word; w < word + 4; ++w) ++cta.shared.readers[w];
    }
  }
}

// Of the elements of a unit, the i-th. TF32 has the upper 19 bits of FP32.
float element(const std::uint8_t* bytes, std::uint32_t i, MmaType type) {
  if (type != MmaType::kTf32) return fp8_table(type == MmaType::kE4m3)[bytes[i]];
  std::uint32_t bits;
  std::memcpy(&bits, bytes + i * 4, 4);
  return std::bit_cast<float>(bits & 0xffffe000u);
}

// Decodes [rows][32], or with `across` its transpose [k][rows], and ends the reading.
void read_operand(Cta& cta, const Operand& o, MmaType type, bool across, float* to) {
  const std::uint32_t of_unit = k_count(type) / kUnits;
  for (std::uint32_t row = 0; row < o.rows; ++row) {
    for (std::uint32_t u = 0; u < kUnits; ++u) {
      const std::uint32_t address = o.unit(row, u), word = SharedMemory::word(address);
      const std::uint8_t* const bytes = cta.shared.at(address);
      for (std::uint32_t i = 0; i < of_unit; ++i) {
        const std::uint32_t k = u * of_unit + i;
        to[across ? k * o.rows + row : row * 32 + k] = element(bytes, i, type);
      }
      for (std::uint32_t w = word; w < word + 4; ++w) --cta.shared.readers[w];
    }
  }
}

// Decodes A [16][32] from registers: of a lane 4 bytes of each of two rows and of both units.
void read_registers(const MmaOp& op, float* to) {
  const float* const table = fp8_table(op.shape.a == MmaType::kE4m3);
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    for (std::uint32_t i = 0; i < 4; ++i) {
      const std::uint32_t row = lane / 4 + i % 2 * 8, k = i / 2 * 16 + lane % 4 * 4;
      for (std::uint32_t byte = 0; byte < 4; ++byte)
        to[row * 32 + k + byte] = table[op.held_a[lane][i] >> byte * 8 & 0xff];
    }
  }
}

// Calls visit(register, row, column) for a lane's part of 16 rows.
template <class Visit>
void for_fragment(std::uint32_t lane, std::uint32_t n, Visit visit) {
  for (std::uint32_t i = 0; i < n / 2; ++i)
    visit(i, lane / 4 + (i % 4 < 2 ? 0 : 8), i / 4 * 8 + lane % 4 * 2 + i % 2);
}

// The accumulators that a lane's registers are part of, if they are in flight.
Accumulators* in_flight(Warp& warp, std::uint32_t lane, const float* registers) {
  for (const auto& a : warp.accumulators)
    if (a->registers[lane] == registers && (a->captured & ~a->delivered) >> lane & 1)
      return a.get();
  return nullptr;
}

void capture(Accumulators& a, std::uint32_t lane, float* registers) {
  a.registers[lane] = registers;
  a.captured |= 1u << lane;
  for_fragment(lane, a.n, [&](std::uint32_t i, std::uint32_t row, std::uint32_t column) {
    a.values[row * a.n + column] = registers[i];
    registers[i] = std::bit_cast<float>(kiln_sim::kInFlight);
  });
}

void deliver(Accumulators& a, std::uint32_t lane, const Where& where) {
  float* const registers = a.registers[lane];
  for_fragment(lane, a.n, [&](std::uint32_t i, std::uint32_t row, std::uint32_t column) {
    if (std::bit_cast<std::uint32_t>(registers[i]) != kiln_sim::kInFlight)
      machine->fail(where,
                    fmt::format("accumulator register {} was written while a WGMMA on it was "
                                "in flight",
                                i));
    registers[i] = a.values[row * a.n + column];
  });
  a.delivered |= 1u << lane;
}

// The lane's next operation, made by the first lane that issues it.
MmaOp& join(Warp& warp, std::uint32_t lane, const Where& where) {
  const std::uint64_t index = warp.issued[lane]++ - warp.ops_done;
  if (index == warp.ops.size())
    warp.ops.push_back(std::make_unique<MmaOp>(machine->current, where));
  return *warp.ops[index];
}

Accumulators& new_accumulators(Warp& warp, std::uint32_t n) {
  std::erase_if(warp.accumulators, [](const auto& a) { return a->delivered == 0xffffffffu; });
  Accumulators& a = *warp.accumulators.emplace_back(std::make_unique<Accumulators>());
  a.n = n;
  a.values.assign(std::size_t{16} * n, 0.f);
  return a;
}

void start(Warp& warp, MmaOp& op) {
  Cta& cta = *warp.cta;
  start_reading(cta, op.operand_a, "A", false, op.where);
  start_reading(cta, op.operand_b, "B", true, op.where);
  for (const Operand* o : {&op.operand_a, &op.operand_b})
    for (std::uint32_t row = 0; row < o->rows; ++row) order_mma_read(warp, o->line(row), op.index);
  op.started = true;
  ++machine->statistics().mmas;
  if (warp.ops.front().get() == &op) machine->add_ready(&warp);
}

}  // namespace

std::string MmaOp::describe() const {
  return fmt::format("the wgmma of warp {} issued at {}", issuer->warp->number,
                     sim::name_of(where));
}

bool MmaOp::reads(const Cta& cta, std::uint32_t address) const {
  if (!started || issuer->cta != &cta) return false;
  for (const Operand* o : {&operand_a, &operand_b})
    for (std::uint32_t row = 0; row < o->rows; ++row)
      for (std::uint32_t u = 0; u < kUnits; ++u)
        if (o->unit(row, u) / 16 == address / 16) return true;
  return false;
}

void run_mma(Warp& warp) {
  MmaOp& op = *warp.ops.front();
  thread_local std::vector<float> a(16 * 32), b;
  b.resize(std::size_t{32} * op.shape.n);
  std::fill(a.begin(), a.end(), 0.f);
  if (op.holds_a) {
    read_registers(op, a.data());
  } else {
    read_operand(*warp.cta, op.operand_a, op.shape.a, false, a.data());
  }
  read_operand(*warp.cta, op.operand_b, op.shape.b, true, b.data());
  if (!op.add) std::fill(op.accumulators->values.begin(), op.accumulators->values.end(), 0.f);
  multiply_add(op.accumulators->values.data(), a.data(), b.data(), op.shape.n, k_count(op.shape.a));
  warp.ops.pop_front();
  ++warp.ops_done;
  machine->notify(warp.mma_waiting);
  if (!warp.ops.empty() && warp.ops.front()->started) machine->add_ready(&warp);
}

}  // namespace kiln::sim

namespace kiln_sim {

using namespace kiln::sim;

// Like all instructions of the family .sync.aligned: no lane goes on before all are here. Done for
// the first and the last of them, what lies between has no effect that a lane could see.
void mma_fence(const Where& where) {
  machine->meet(Exchange::kMma, 0, where);
  machine->current->warp->fenced |= 1u << machine->current->lane;
}

namespace {

// This lane's part of its warp's next operation, which descriptors `a` and `b` or, with A in
// registers, `held` describe.
void issue(float* registers, std::uint64_t a, const std::uint32_t* held, std::uint64_t b,
           const MmaShape& shape, bool add, const Where& where) {
  Thread& thread = *machine->current;
  Warp& warp = *thread.warp;
  const std::uint32_t lane = thread.lane;
  if ((warp.fenced >> lane & 1) == 0)
    machine->fail(where,
                  "wgmma without wgmma.fence: one is needed before the first wgmma after the "
                  "accumulators were used otherwise");
  MmaOp& op = join(warp, lane, where);
  Accumulators* accumulators = in_flight(warp, lane, registers);
  if (op.joined == 0) {
    op.a = a;
    op.b = b;
    op.holds_a = held != nullptr;
    op.shape = shape;
    op.add = add;
    op.index = warp.issued[lane] - 1;
    const std::uint32_t first = warp.number % 4 * 16;
    if (!op.holds_a)
      op.operand_a = decode(a, first, std::clamp(shape.rows, first, first + 16) - first, where);
    op.operand_b = decode(b, 0, shape.n, where);
    op.accumulators = accumulators != nullptr ? accumulators : &new_accumulators(warp, shape.n);
    op.accumulators->last_op = warp.issued[lane];
  } else if (op.a != a || op.b != b || op.holds_a != (held != nullptr) || op.shape != shape ||
             op.add != add) {
    machine->fail(where,
                  "the lanes of a warp give wgmma different operands: descriptors, shape and "
                  "scale-d must be the same in all of them");
  }
  if (accumulators != nullptr && accumulators != op.accumulators)
    machine->fail(where, "the lanes of a warp give wgmma accumulators of different operations");
  if (accumulators == nullptr) capture(*op.accumulators, lane, registers);
  if (op.holds_a) {
    std::copy_n(held, 4, op.held_a[lane]);
    warp.held[lane].push_back({held, {held[0], held[1], held[2], held[3]}, op.index});
  }
  op.joined |= 1u << lane;
  if (op.joined == 0xffffffffu) start(warp, op);
}

}  // namespace

void mma(float* registers, std::uint64_t a, std::uint64_t b, const MmaShape& shape, bool add,
         const Where& where) {
  issue(registers, a, nullptr, b, shape, add, where);
}

void mma(float* registers, const std::uint32_t* a, std::uint64_t b, const MmaShape& shape, bool add,
         const Where& where) {
  issue(registers, 0, a, b, shape, add, where);
}

void mma_commit() {
  Thread& thread = *machine->current;
  thread.warp->groups[thread.lane].push_back(thread.warp->issued[thread.lane]);
}

void mma_wait(std::uint32_t pending, const Where& where) {
  Machine& m = *machine;
  Thread& thread = *m.current;
  Warp& warp = *thread.warp;
  const std::uint32_t lane0 = m.number_of(*thread.cta->threads[warp.number * 32]);
  m.meet(Exchange::kMma, 1, where);
  auto& groups = warp.groups[thread.lane];
  warp.fenced &= ~(1u << thread.lane);
  if (groups.size() <= pending) return;
  const std::uint64_t until = groups[groups.size() - pending - 1];
  m.wait_until(warp.mma_waiting, {Waiting::kMma, pending, 0, where},
               [&] { return warp.ops_done >= until; });
  order_mma_wait(warp, until, warp.met[lane0]);  // which every lane has now
  groups.erase(groups.begin(), groups.end() - pending);
  std::erase_if(warp.held[thread.lane], [&](const HeldRegisters& held) {
    if (held.op >= until) return false;
    if (!std::equal(held.values.begin(), held.values.end(), held.registers))
      m.fail(where, "a register that holds A of a WGMMA was written while it was in flight");
    return true;
  });
  for (const auto& a : warp.accumulators)
    if (a->last_op <= until && (a->captured & ~a->delivered) >> thread.lane & 1)
      deliver(*a, thread.lane, where);
}

void fail_in_flight(const Where& where) {
  machine->fail(where, "a register of a WGMMA in flight is read: wgmma.wait_group must come first");
}

}  // namespace kiln_sim

#include "tools/sim/order.h"

#include <fmt/format.h>

#include <algorithm>

#include "tools/sim/machine.h"

namespace kiln::sim {
namespace {

std::string name_of_thread(std::uint32_t number) {
  const std::uint32_t per_cta = machine->launch().block.x;
  return fmt::format("warp {} lane {}{}", number % per_cta / 32, number % 32,
                     machine->ctas.size() > 1 ? fmt::format(" of CTA {}", number / per_cta) : "");
}

bool is_before(const Access& access, const Thread& thread) {
  return access.clock <= thread.clocks[access.thread];
}

[[noreturn]] void fail_order(const Cta& cta, std::uint32_t address, const char* what,
                             const std::string& earlier, const Where& where) {
  machine->fail(where, fmt::format("{} {}: {}, and nothing orders the two", what,
                                   machine->name_of(cta, address), earlier));
}

void check_write(const Cta& cta, std::uint32_t address, const Access& write, const Thread& thread,
                 const char* what, const Where& where) {
  if (!is_before(write, thread))
    fail_order(
        cta, address, what,
        fmt::format("{} wrote it at {}", name_of_thread(write.thread), sim::name_of(write.where)),
        where);
}

// A bulk store reads the line until its thread has waited for the store's group.
void check_store(const Cta& cta, std::uint32_t address, const LineOrder& line, const Thread& thread,
                 const char* what, const Where& where) {
  if (line.store.clock == 0) return;
  const Thread& issuer = machine->thread(line.store.thread);
  const std::uint32_t group = line.store.clock - 1;
  const std::uint32_t waited = group < issuer.bulk_waits.size() ? issuer.bulk_waits[group] : 0;
  if (waited != 0 && waited <= thread.clocks[line.store.thread]) return;
  fail_order(
      cta, address, what,
      fmt::format("overwritten too early: the TMA store issued at {} reads it{}",
                  sim::name_of(line.store.where), waited == 0 ? " and was not waited for" : ""),
      where);
}

void check_mmas(const Cta& cta, std::uint32_t address, const LineOrder& line, const Thread& thread,
                const char* what, const Where& where) {
  for (const auto& warp : cta.warps) {
    const std::uint32_t op = line.mmas[warp->number];
    if (op == 0) continue;
    const std::uint32_t waited = op <= warp->mma_waits.size() ? warp->mma_waits[op - 1] : 0;
    const std::uint32_t lane0 = machine->number_of(*cta.threads[warp->number * 32]);
    if (waited != 0 && waited <= thread.clocks[lane0]) continue;
    fail_order(cta, address, what,
               fmt::format("overwritten too early: a wgmma of warp {} reads it{}", warp->number,
                           waited == 0 ? " and was not waited for" : ""),
               where);
  }
}

void check_word_reads(const Cta& cta, std::uint32_t address, const WordOrder& word,
                      const Thread& thread, const char* what, const Where& where) {
  for (const Access& read : word.reads) {
    if (!is_before(read, thread))
      fail_order(cta, address, what,
                 fmt::format("overwritten too early: {} reads it at {}",
                             name_of_thread(read.thread), sim::name_of(read.where)),
                 where);
  }
}

void remember_read(WordOrder& word, const Thread& thread, const Access& access) {
  Access* to = &word.reads[access.thread % word.reads.size()];  // if all are needed, one is lost
  for (Access& read : word.reads)
    if (read.thread == access.thread || is_before(read, thread)) to = &read;
  *to = access;
}

}  // namespace

void join(Clocks& to, const Clocks& from) {
  if (to.size() < from.size()) to.resize(from.size());
  take_later(to.data(), from.data(), from.size());
}

void release(Thread& thread, Clocks& to) {
  join(to, thread.clocks);
  ++thread.clocks[machine->number_of(thread)];
}

void acquire(Thread& thread, const Clocks& from) { join(thread.clocks, from); }

void Order::reset(std::uint32_t bytes) {
  lines_.clear();
  lines_.resize((bytes + kLineBytes - 1) / kLineBytes);
}

LineOrder& Order::line(std::uint32_t address) {
  auto& line = lines_[(address - kSharedBase) / kLineBytes];
  if (line == nullptr) line = std::make_unique<LineOrder>();
  return *line;
}

void order_load(Thread& thread, std::uint32_t address, std::uint32_t bytes, const Where& where) {
  Cta& cta = *thread.cta;
  const std::uint32_t number = machine->number_of(thread);
  const Access access{number, thread.clocks[number], where};
  for (std::uint32_t at = address; at < address + bytes; at += 4) {
    LineOrder& line = cta.order.line(at);
    WordOrder& word = line.words[at % kLineBytes / 4];
    check_write(cta, at, line.write, thread, "a load of", where);
    check_write(cta, at, word.write, thread, "a load of", where);
    remember_read(word, thread, access);
    line.touched = true;
  }
}

void order_store(Thread& thread, std::uint32_t address, std::uint32_t bytes, const Where& where) {
  Cta& cta = *thread.cta;
  const std::uint32_t number = machine->number_of(thread);
  for (std::uint32_t at = address; at < address + bytes; at += 4) {
    LineOrder& line = cta.order.line(at);
    WordOrder& word = line.words[at % kLineBytes / 4];
    check_write(cta, at, line.write, thread, "a store into", where);
    check_write(cta, at, word.write, thread, "a store into", where);
    check_word_reads(cta, at, word, thread, "a store into", where);
    check_store(cta, at, line, thread, "a store into", where);
    check_mmas(cta, at, line, thread, "a store into", where);
    word = {{number, thread.clocks[number], where}, {}};
    line.touched = true;
  }
}

void order_async_write(Thread& issuer, Cta& to, std::uint32_t address, std::uint32_t bytes,
                       const Where& where) {
  constexpr const char* kWhat = "a TMA load into";
  const std::uint32_t number = machine->number_of(issuer);
  for (std::uint32_t at = address / kLineBytes * kLineBytes; at < address + bytes;
       at += kLineBytes) {
    LineOrder& line = to.order.line(at);
    check_write(to, at, line.write, issuer, kWhat, where);
    check_store(to, at, line, issuer, kWhat, where);
    check_mmas(to, at, line, issuer, kWhat, where);
    for (std::uint32_t i = 0; line.touched && i < line.words.size(); ++i) {
      if (at + i * 4 >= address + bytes) break;  // a box may end within a line
      check_write(to, at + i * 4, line.words[i].write, issuer, kWhat, where);
      check_word_reads(to, at + i * 4, line.words[i], issuer, kWhat, where);
      line.words[i] = {};
    }
    line.touched = false;
    line.store = {};
    line.mmas = {};
    line.write = {number, issuer.clocks[number], where};
  }
}

void order_store_read(Thread& issuer, std::uint32_t address, std::uint32_t bytes,
                      std::uint64_t group, const Where& where) {
  const std::uint32_t number = machine->number_of(issuer);
  for (std::uint32_t at = address; at < address + bytes; at += kLineBytes) {
    LineOrder& line = issuer.cta->order.line(at);
    check_write(*issuer.cta, at, line.write, issuer, "a TMA store from", where);
    for (const WordOrder& word : line.words)
      check_write(*issuer.cta, at, word.write, issuer, "a TMA store from", where);
    line.store = {number, static_cast<std::uint32_t>(group) + 1, where};
  }
}

void order_mma_read(Warp& warp, std::uint32_t address, std::uint64_t op) {
  warp.cta->order.line(address).mmas[warp.number] = static_cast<std::uint32_t>(op) + 1;
}

void order_bulk_wait(Thread& thread, std::uint32_t pending) {
  const std::uint64_t done = thread.bulk.closed > pending ? thread.bulk.closed - pending : 0;
  if (thread.bulk_waits.size() < done)
    thread.bulk_waits.resize(done, thread.clocks[machine->number_of(thread)]);
}

void order_mma_wait(Warp& warp, std::uint64_t until, std::uint32_t clock) {
  if (warp.mma_waits.size() < until) warp.mma_waits.resize(until, clock);
}

}  // namespace kiln::sim

// Messages: who, where, what is waited for.
#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>
#include <unwind.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "tools/sim/machine.h"
#include "tools/sim/mma.h"

namespace kiln::sim {
namespace {

std::string base_name(std::string_view path) {
  return std::string(path.substr(path.rfind('/') + 1));
}

struct Walk {
  std::vector<void*> chain;
};

_Unwind_Reason_Code take_frame(_Unwind_Context* context, void* data) {
  auto& walk = *static_cast<Walk*>(data);
  if (walk.chain.size() < 64) walk.chain.push_back(reinterpret_cast<void*>(_Unwind_GetIP(context)));
  return _URC_NO_REASON;
}

// "consume" of "void consume<X>(GemmParams const&, ...)".
std::string short_function(std::string text) {
  if (const auto lambda = text.find("::{lambda"); lambda != std::string::npos) text.resize(lambda);
  if (const auto open = text.find('('); open != std::string::npos) text.resize(open);
  if (const auto open = text.find('<'); open != std::string::npos) text.resize(open);
  return text.substr(text.rfind(' ') + 1);
}

// The lines of one address: pairs of function and place.
std::vector<std::string> read_frames(std::FILE* pipe, std::string& line) {
  std::vector<std::string> frames;
  char buffer[4096];
  const auto next = [&] {
    if (std::fgets(buffer, sizeof(buffer), pipe) == nullptr) return false;
    line = buffer;
    while (!line.empty() && line.back() == '\n') line.pop_back();
    return true;
  };
  while (next() && !line.starts_with("0x")) {
    const std::string function = short_function(line);
    if (!next()) break;
    std::string place = base_name(line.substr(0, line.find(" (")));
    if (!place.starts_with("??") && function != "??")
      frames.push_back(fmt::format("{} ({})", function, place));
  }
  return frames;
}

}  // namespace

std::string name_of(const Where& where) {
  return where.line() == 0 ? "" : fmt::format("{}:{}", base_name(where.file_name()), where.line());
}

std::vector<void*> call_chain() {
  Walk walk;
  _Unwind_Backtrace(take_frame, &walk);
  return walk.chain;
}

std::vector<std::vector<std::string>> symbolised(const std::string& image,
                                                 const std::vector<std::vector<void*>>& chains) {
  std::vector<std::vector<std::string>> result(chains.size());
  std::string command = fmt::format("addr2line -e '{}' -a -f -i -C", image);
  std::vector<std::size_t> owners;
  for (std::size_t i = 0; i < chains.size(); ++i) {
    for (void* const pc : chains[i]) {
      Dl_info info{};
      if (dladdr(pc, &info) == 0 || info.dli_fname == nullptr || image != info.dli_fname) continue;
      command +=
          fmt::format(" {:#x}", static_cast<char*>(pc) - static_cast<char*>(info.dli_fbase) - 1);
      owners.push_back(i);
    }
  }
  if (owners.empty()) return result;
  std::FILE* const pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return result;
  std::string line;
  read_frames(pipe, line);  // up to the first address
  for (const std::size_t owner : owners)
    for (std::string& frame : read_frames(pipe, line)) result[owner].push_back(std::move(frame));
  pclose(pipe);
  return result;
}

std::string role_of(const std::vector<std::string>& frames) {
  for (std::size_t i = 1; i < frames.size(); ++i) {
    if (frames[i].starts_with("gemm (")) return frames[i - 1].substr(0, frames[i - 1].find(' '));
  }
  return "";
}

std::string joined(const std::vector<std::string>& frames) {
  std::string text;
  for (const std::string& frame : frames) {
    if (frame.find(".cuh:") == std::string::npos) continue;
    text += (text.empty() ? "" : " < ") + frame;
  }
  return text;
}

std::string Machine::name_of(const Thread& thread) const {
  return fmt::format("CTA {} (block {}), warp {}, lane {}", thread.cta->rank, thread.block.x,
                     thread.warp->number, thread.lane);
}

std::string Machine::name_of(const Cta& cta, std::uint32_t address) const {
  std::string of_cta = ctas.size() > 1 ? fmt::format(" of CTA {}", cta.rank) : "";
  const std::uint32_t offset = address - kSharedBase;
  for (const Region* r = launch_.regions; r != nullptr && r->name != nullptr; ++r) {
    if (r->bytes == 0 || offset < r->offset || offset >= r->offset + r->bytes * r->count) continue;
    const std::uint32_t piece = (offset - r->offset) / r->bytes;
    const std::uint32_t rest = (offset - r->offset) % r->bytes;
    return fmt::format("{} of {} {}{}{}", r->name, r->unit, piece,
                       rest == 0 ? "" : fmt::format(" + {}", rest), of_cta);
  }
  return fmt::format("shared address {:#x}{}", address, of_cta);
}

int Machine::piece_of(std::uint32_t address) const {
  const std::uint32_t offset = address - kSharedBase;
  int before = 0;
  for (const Region* r = launch_.regions; r != nullptr && r->name != nullptr; ++r) {
    if (r->bytes != 0 && offset >= r->offset && offset < r->offset + r->bytes * r->count)
      return before + static_cast<int>((offset - r->offset) / r->bytes);
    before += static_cast<int>(r->count);
  }
  return -1;
}

void Machine::fail(const Where& where, const std::string& text) {
  std::string message = fmt::format("{}: {}", launch_.name, text);
  if (current != nullptr) {
    const auto frames = symbolised(launch_.image, {call_chain()}).front();
    const std::string role = role_of(frames);
    message += fmt::format("\n  by {}{}", name_of(*current), role.empty() ? "" : ", role " + role);
    const std::string chain = joined(frames);
    message += "\n  at " + (chain.empty() ? sim::name_of(where) : chain);
  } else if (where.line() != 0) {
    message += "\n  issued at " + sim::name_of(where);
  }
  throw Fault(message);
}

std::string Machine::waits_of(const Thread& thread) const {
  const Reason& r = thread.reason;
  switch (r.what) {
    case Waiting::kBarrier: {
      const Barrier& barrier = thread.cta->barriers.at(r.a);
      return fmt::format(
          "waits for {} with parity {}: {} of {} arrivals and {} bytes are missing, "
          "{} phases were completed",
          name_of(*thread.cta, r.a), r.b, barrier.pending, barrier.expected, barrier.bytes,
          barrier.phase);
    }
    case Waiting::kThreads:
      return fmt::format("waits at __syncthreads, where {} of {} threads are", thread.cta->at_sync,
                         thread.cta->threads.size());
    case Waiting::kCluster:
      return fmt::format("waits for the cluster, of which {} threads arrived and {} live",
                         at_cluster_, alive_);
    case Waiting::kWarp:
      return fmt::format("waits for its warp, of which the lanes {:#010x} are there",
                         thread.warp->arrived);
    case Waiting::kRegisters:
      return fmt::format(
          "waits in setmaxnreg for {} registers per thread, {} more for its warp; "
          "the CTA has {} free",
          r.a, (r.a - thread.warp->registers) * 32, thread.cta->free_registers);
    case Waiting::kBulk:
      return fmt::format("waits until at most {} bulk groups are pending", r.a);
    case Waiting::kCopies:
      return fmt::format("waits until at most {} cp.async groups are", r.a);
    case Waiting::kMma:
      return fmt::format(
          "waits until at most {} WGMMA groups are pending: the other lanes of the "
          "warp have not issued them",
          r.a);
    case Waiting::kNothing:
      break;
  }
  return "can run";
}

// Threads that wait for the same at the same place are named together.
void Machine::deadlock() {
  std::vector<Thread*> blocked;
  for (const auto& cta : ctas)
    for (const auto& thread : cta->threads)
      if (!thread->exited) blocked.push_back(thread.get());
  std::vector<std::vector<void*>> chains;
  std::map<std::string, std::string> lanes;  // by warp and reason
  std::map<std::string, Thread*> first;
  std::map<std::string, int> counts;
  for (Thread* const thread : blocked) {
    const std::string key =
        fmt::format("{:3} {:3} {}", thread->cta->rank, thread->warp->number, waits_of(*thread));
    if (++counts[key] == 1) first[key] = thread;
  }
  for (const auto& [key, thread] : first) {
    thread->reports = true;
    resume(thread);
    chains.push_back(thread->chain);
  }
  const auto frames = symbolised(launch_.image, chains);
  std::string text =
      fmt::format("{}: deadlock: nothing is in flight and every thread waits", launch_.name);
  std::size_t i = 0;
  for (const auto& [key, thread] : first) {
    const std::string role = role_of(frames[i]), chain = joined(frames[i]);
    text += fmt::format("\n  CTA {} warp {}{}, {} lanes from {}: {}\n    at {}", thread->cta->rank,
                        thread->warp->number, role.empty() ? "" : " (" + role + ")", counts[key],
                        thread->lane, waits_of(*thread),
                        chain.empty() ? sim::name_of(thread->reason.where) : chain);
    ++i;
  }
  throw Fault(text);
}

}  // namespace kiln::sim

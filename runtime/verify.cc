#include "runtime/verify.h"

#include <fmt/format.h>

#include <cstdint>
#include <span>

#include "cache/digest.h"

namespace kiln::runtime {
namespace {

std::string words(const cache::Entry& entry) {
  return fmt::format("{} bytes with SHA-256 {}", entry.cubin.size(),
                     cache::to_hex(cache::sha256(std::span(entry.cubin))));
}

struct Number {
  const char* name;
  std::uint64_t (*of)(const cache::Entry& entry);
};

constexpr Number kNumbers[] = {
    {"threads", [](const cache::Entry& e) { return std::uint64_t{e.threads}; }},
    {"cluster", [](const cache::Entry& e) { return std::uint64_t{e.cluster}; }},
    {"dynamic shared memory", [](const cache::Entry& e) { return e.dynamic_smem_bytes; }},
    {"parameter bytes", [](const cache::Entry& e) { return std::uint64_t{e.param_bytes}; }},
    {"registers", [](const cache::Entry& e) { return std::uint64_t{e.registers}; }},
    {"spill stores", [](const cache::Entry& e) { return std::uint64_t{e.spill_store_bytes}; }},
    {"spill loads", [](const cache::Entry& e) { return std::uint64_t{e.spill_load_bytes}; }},
    {"stack", [](const cache::Entry& e) { return std::uint64_t{e.stack_bytes}; }},
    {"static shared memory",
     [](const cache::Entry& e) { return std::uint64_t{e.static_smem_bytes}; }},
};

std::string difference_between(const cache::Entry& stored, const cache::Entry& compiled) {
  if (stored.key_text != compiled.key_text) return "it was stored with the inputs of another key";
  if (stored.kernel_name != compiled.kernel_name)
    return fmt::format("kernel: {} stored, {} compiled", stored.kernel_name, compiled.kernel_name);
  for (const Number& number : kNumbers) {
    if (number.of(stored) == number.of(compiled)) continue;
    return fmt::format("{}: {} stored, {} compiled", number.name, number.of(stored),
                       number.of(compiled));
  }
  if (stored.source != compiled.source) return "it was stored with another source text";
  if (stored.cubin == compiled.cubin) return "";
  return fmt::format("cubin: {} stored, {} compiled", words(stored), words(compiled));
}

}  // namespace

std::string describe_mismatch(const cache::Entry& stored, const cache::Entry& compiled) {
  const std::string difference = difference_between(stored, compiled);
  if (difference.empty()) return "";
  return fmt::format(
      "cache entry {} of {} is not what its key compiles to: {}; the compiled kernel is used and "
      "stored instead: look for what wrote the entry, and report it if that was Kiln",
      cache::to_hex(stored.key), stored.description, difference);
}

}  // namespace kiln::runtime

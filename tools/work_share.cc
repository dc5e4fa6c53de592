#include "tools/work_share.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include "jit/error.h"
#include "tools/text.h"

namespace kiln::tools {

Shard read_shard(const Args& args) {
  const std::string text = args.text("--shard", "1/1");
  const std::size_t slash = text.find('/');
  std::optional<ParsedInteger> index, count;
  if (slash != std::string::npos) {
    index = parse_integer(std::string_view(text).substr(0, slash));
    count = parse_integer(std::string_view(text).substr(slash + 1));
  }
  constexpr std::int64_t kMaxShards = 10'000;
  const bool valid = index && count && !index->overflow && !count->overflow && index->value >= 1 &&
                     index->value <= count->value && count->value <= kMaxShards;
  if (!valid) {
    throw Error(
        Status::kInvalidArgument,
        fmt::format("--shard must be I/N with 1 <= I <= N <= {}, got {}", kMaxShards, quote(text)));
  }
  return {index->value, count->value};
}

std::string describe(const Shard& shard) { return fmt::format("{}/{}", shard.index, shard.count); }

std::int64_t usable_cpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (::sched_getaffinity(0, sizeof cpus, &cpus) != 0) return 1;
  return std::clamp<std::int64_t>(CPU_COUNT(&cpus), 1, 256);
}

}  // namespace kiln::tools

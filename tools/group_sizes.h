// How large the groups of a measured problem are: drawn, the same for the same seed on any machine.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace kiln::tools {

// uniform: each between 0.7 and 1.3 times the mean.
// zipf: as popular experts make them: in a random order, in proportion to 1, 1/2, 1/3, ..., and the
// last quarter is empty. All together they are exactly groups x mean.
enum class Skew : std::uint8_t { kUniform, kZipf };

std::string_view name(Skew value);                               // "uniform"
Skew parse_skew(std::string_view text, std::string_view field);  // throws Error{kInvalidArgument}

struct SizeDraw {
  std::int64_t groups = 1;  // 1 or more
  std::int64_t mean = 0;    // 0 or more; groups x mean at most 2^53
  Skew skew = Skew::kUniform;
  std::uint64_t seed = 1;
};

// One size for each group, at most largest_size().
std::vector<std::int64_t> draw_sizes(const SizeDraw& draw);

// The largest that any seed can give.
std::int64_t largest_size(const SizeDraw& draw);

}  // namespace kiln::tools

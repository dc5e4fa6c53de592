#include "tools/group_sizes.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "jit/error.h"

namespace kiln::tools {
namespace {

struct Bounds {
  std::int64_t low = 0, high = 0;
};

// In whole numbers, so that every machine rounds alike.
Bounds uniform_bounds(std::int64_t mean) { return {(mean * 7 + 9) / 10, mean * 13 / 10}; }

// By popularity, from the most popular on. Rounded down; the most popular gets what is left over.
std::vector<std::int64_t> zipf_sizes(std::int64_t groups, std::int64_t mean) {
  const std::int64_t total = groups * mean, chosen = groups - groups / 4;
  double sum = 0;
  for (std::int64_t rank = 0; rank < chosen; ++rank) sum += 1.0 / static_cast<double>(rank + 1);
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(groups));
  std::int64_t given = 0;
  for (std::int64_t rank = 1; rank < chosen; ++rank) {
    const double share = static_cast<double>(total) / (static_cast<double>(rank + 1) * sum);
    sizes[static_cast<std::size_t>(rank)] = static_cast<std::int64_t>(share);
    given += sizes[static_cast<std::size_t>(rank)];
  }
  sizes[0] = total - given;
  return sizes;
}

// 0..count-1. The standard's distributions differ from library to library; a remainder does not.
std::int64_t below(std::mt19937_64& random, std::int64_t count) {
  return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(count));
}

}  // namespace

std::string_view name(Skew value) { return value == Skew::kUniform ? "uniform" : "zipf"; }

Skew parse_skew(std::string_view text, std::string_view field) {
  for (const Skew skew : {Skew::kUniform, Skew::kZipf}) {
    if (text == name(skew)) return skew;
  }
  throw Error(Status::kInvalidArgument,
              fmt::format("{} must be one of uniform, zipf; got \"{}\"", field, text));
}

std::vector<std::int64_t> draw_sizes(const SizeDraw& draw) {
  std::mt19937_64 random(draw.seed);
  if (draw.skew == Skew::kZipf) {
    std::vector<std::int64_t> sizes = zipf_sizes(draw.groups, draw.mean);
    for (std::size_t left = sizes.size(); left > 1; --left) {
      const auto other = static_cast<std::size_t>(below(random, static_cast<std::int64_t>(left)));
      std::swap(sizes[left - 1], sizes[other]);
    }
    return sizes;
  }
  const Bounds bounds = uniform_bounds(draw.mean);
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(draw.groups));
  for (std::int64_t& size : sizes) size = bounds.low + below(random, bounds.high - bounds.low + 1);
  return sizes;
}

std::int64_t largest_size(const SizeDraw& draw) {
  if (draw.skew == Skew::kZipf) return zipf_sizes(draw.groups, draw.mean).front();
  return uniform_bounds(draw.mean).high;
}

}  // namespace kiln::tools

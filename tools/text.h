// Small text helpers of the CLI: line breaks, numbers and intervals. Those for messages are
// runtime/text.h's, under the same names.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/text.h"

namespace kiln::tools {

using runtime::human_bytes;
using runtime::join;
using runtime::nearest;
using runtime::printable;
using runtime::quote;

// A whole decimal number with an optional sign and nothing else around it.
struct ParsedInteger {
  std::int64_t value = 0;
  bool overflow = false;  // a number, but outside 64 bits
};
std::optional<ParsedInteger> parse_integer(std::string_view text);

// Lines of at most `width` columns. A line break in the text is a blank like any other, except that
// an empty line separates paragraphs.
std::string wrap(std::string_view text, std::size_t width);

std::string human_interval(std::int64_t m_min, std::int64_t m_max);  // "0..64", "4097.."

}  // namespace kiln::tools

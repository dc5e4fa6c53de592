// Small text helpers of the CLI: quoting, nearest word, numbers and sizes for people.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace kiln::tools {

// Safe to print: control and non-ASCII bytes as \xNN, and at most 80 bytes of it.
std::string printable(std::string_view text);
std::string quote(std::string_view text);  // the same in double quotes

// The candidate with the fewest edits from `word`, or "" when none is close enough to be a typo of
// it (more than a third of its letters differ).
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

// A whole decimal number with an optional sign and nothing else around it.
struct ParsedInteger {
  std::int64_t value = 0;
  bool overflow = false;  // a number, but outside 64 bits
};
std::optional<ParsedInteger> parse_integer(std::string_view text);

std::string join(std::span<const std::string_view> words, std::string_view separator);

// Lines of at most `width` columns. A line break in the text is a blank like any other, except that
// an empty line separates paragraphs.
std::string wrap(std::string_view text, std::size_t width);

std::string human_bytes(std::uint64_t bytes);                        // "61.3 KiB"
std::string human_interval(std::int64_t m_min, std::int64_t m_max);  // "0..64", "4097.."

}  // namespace kiln::tools

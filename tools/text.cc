#include "tools/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "jit/problem.h"

namespace kiln::tools {

std::optional<ParsedInteger> parse_integer(std::string_view text) {
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  ParsedInteger parsed;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed.value);
  if (error == std::errc::invalid_argument || end != text.data() + text.size()) return std::nullopt;
  parsed.overflow = error == std::errc::result_out_of_range;
  return parsed;
}

std::string wrap(std::string_view text, std::size_t width) {
  std::string out;
  std::size_t column = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = std::min(text.find_first_not_of(" \n", at), text.size());
    const auto breaks = std::count(text.begin() + static_cast<std::ptrdiff_t>(at),
                                   text.begin() + static_cast<std::ptrdiff_t>(start), '\n');
    const std::size_t end = std::min(text.find_first_of(" \n", start), text.size());
    if (end == start) break;
    const std::size_t length = end - start;
    if (!out.empty() && breaks > 1) {
      out += "\n\n";
      column = 0;
    } else if (!out.empty()) {
      const bool fits = column + 1 + length <= width;
      out += fits ? ' ' : '\n';
      column = fits ? column + 1 : 0;
    }
    out += text.substr(start, length);
    column += length;
    at = end;
  }
  return out;
}

std::string human_interval(std::int64_t m_min, std::int64_t m_max) {
  if (m_max >= jit::kMaxM) return fmt::format("{}..", m_min);
  return fmt::format("{}..{}", m_min, m_max);
}

}  // namespace kiln::tools

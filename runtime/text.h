// Text helpers of messages: quoting, nearest word, sizes for people.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace kiln::runtime {

// Safe to print: control and non-ASCII bytes as \xNN, and at most 80 bytes of it.
std::string printable(std::string_view text);
std::string quote(std::string_view text);  // the same in double quotes

// The candidate with the fewest edits from `word`, or "" when none is close enough to be a typo of
// it (more than a third of its letters differ).
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

std::string join(std::span<const std::string_view> words, std::string_view separator);

std::string human_bytes(std::uint64_t bytes);  // "61.3 KiB"

}  // namespace kiln::runtime

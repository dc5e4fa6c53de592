// How a test serves the release gate (tests/gate/gate) beside its ordinary, short run: it asks how
// much to do, and says what it did in one line that the gate prints and keeps.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace kiln::test {

// KILN_GATE_SCALE=full, set by the gate; anything else is the short form.
inline bool is_full_scale() {
  const char* const scale = std::getenv("KILN_GATE_SCALE");
  return scale != nullptr && std::string_view(scale) == "full";
}

template <class T>
T by_scale(T small, T full) {
  return is_full_scale() ? full : small;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kIsSanitized = true;
#else
inline constexpr bool kIsSanitized = false;
#endif

// How often to try something random. Under a sanitizer each time takes several times as long, so
// there it is done less often; the release build's tests do all of it.
constexpr int by_build(int release, int sanitized) { return kIsSanitized ? sanitized : release; }

// One line of figures for the gate's table, e.g. "64 threads, 600 s, 51,000,000 calls, 0 wrong".
inline void report_figures(const std::string& figures) {
  std::printf("FIGURES: %s\n", figures.c_str());
  std::fflush(stdout);
}

// 1234567 -> "1,234,567"
inline std::string with_commas(unsigned long long value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

}  // namespace kiln::test

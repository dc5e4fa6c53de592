// What Kiln uses of fmt. CMakeLists.txt links it with fmt.cc to see whether that has all of it.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

int main() {
  const std::vector<int> list = {1, 2};
  std::string text = fmt::format("{} {:>5} {:02x} {:<8}|{}", 1, 2U, std::uint64_t{3}, "four", true);
  text += fmt::format("{} {:.1f} {:.3e} {:g} {}", 1.5, 2.5, 3.5, 4.5F, 'c');
  text += fmt::format("{:*^{}} {:.{}f}", text, 80, 1.0, 2);
  text += fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time_t{0}));
  text += fmt::format("{}", fmt::join(list, ", ")) + fmt::to_string(-1) + fmt::to_string(1.25);
  return text.empty() ? 1 : 0;
}

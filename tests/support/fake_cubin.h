// The image that FakeCompiler makes and the fake driver loads: an ELF magic, then one line of text.
#pragma once

#include <cstdio>
#include <cstring>
#include <optional>
#include <string>

namespace kiln::test {

struct FakeCubin {
  std::string entry;
  int registers = 0;
  int static_smem_bytes = 0;
  int param_bytes = 0;
  int threads = 0;  // at most, per CTA
};

inline constexpr char kFakeCubinFormat[] =
    "\x7f"
    "ELF fake %255s %d %d %d %d";

inline std::string write_fake_cubin(const FakeCubin& cubin) {
  return "\x7f"
         "ELF fake " +
         cubin.entry + " " + std::to_string(cubin.registers) + " " +
         std::to_string(cubin.static_smem_bytes) + " " + std::to_string(cubin.param_bytes) + " " +
         std::to_string(cubin.threads) + "\n";
}

// `image` is terminated by a zero byte, as FakeCompiler writes it.
inline std::optional<FakeCubin> read_fake_cubin(const void* image) {
  char entry[256] = {};
  FakeCubin cubin;
  if (std::sscanf(static_cast<const char*>(image), kFakeCubinFormat, entry, &cubin.registers,
                  &cubin.static_smem_bytes, &cubin.param_bytes, &cubin.threads) != 5) {
    return std::nullopt;
  }
  cubin.entry = entry;
  return cubin;
}

}  // namespace kiln::test
